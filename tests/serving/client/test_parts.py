"""The breaker, the clock, the counts, addresses: what needs no server."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from infra.settings import REPOSITORY, child_environment
from serving.client.breaker import Breaker
from serving.client.clock import StoreClock
from serving.client.core import Core
from serving.client.model import Model
from serving.client.options import Options
from serving.client.wire import Target
from serving.statistics import STALENESS_SECONDS, Statistics
from tests.serving.client.clients import DEMO, with_policy

SECONDS = 0.25


def test_the_breaker_opens_after_some_failures_in_a_row() -> None:
    breaker = Breaker(failures=3, pause_seconds=SECONDS)
    for failed in (True, True, False, True, True):
        assert breaker.allows(0.0)
        breaker.failed(0.0) if failed else breaker.succeeded()
    assert not breaker.is_open
    breaker.failed(0.0)
    assert (breaker.is_open, breaker.opened, breaker.allows(SECONDS - 0.01)) == (True, 1, False)


def test_one_tries_now_and_then_while_it_is_open() -> None:
    breaker = Breaker(failures=1, pause_seconds=SECONDS)
    breaker.failed(0.0)
    assert [breaker.allows(now) for now in (0.1, 0.3, 0.31, 0.5, 0.6, 0.7)] == [False, True, False, False, True, False]
    breaker.failed(0.6)
    assert (breaker.opened, breaker.allows(0.8), breaker.allows(0.9)) == (1, False, True)
    breaker.succeeded()
    assert (breaker.is_open, breaker.allows(0.9), breaker.allows(0.9)) == (False, True, True)


def test_ages_are_by_the_stores_clock() -> None:
    clock = StoreClock()
    a_day_ahead = 1000 * (time.time() + 86_400)
    now = time.monotonic()
    clock.measured(asked=now - 0.010, answered=now, store_ms=a_day_ahead - 5)
    assert abs(clock.now_ms() - a_day_ahead) < 1000
    assert clock.uncertainty_ms == pytest.approx(5.0)
    clock.measured(asked=now - 0.200, answered=now, store_ms=a_day_ahead)  # a late answer says less
    assert clock.uncertainty_ms == pytest.approx(5.0)
    clock.measured(asked=now - 0.002, answered=now, store_ms=a_day_ahead - 1)
    assert clock.uncertainty_ms == pytest.approx(1.0)


def test_a_clock_that_was_set_is_believed_at_once() -> None:
    clock = StoreClock()
    for offset_seconds in (86_400, 0):
        now = time.monotonic()
        clock.measured(asked=now - 0.001, answered=now, store_ms=1000 * (time.time() + offset_seconds))
        assert abs(clock.now_ms() / 1000 - time.time() - offset_seconds) < 1
        assert clock.uncertainty_ms == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("url", "shown", "hello", "is_encrypted"),
    [
        pytest.param("redis://:secret@h:6380/2", "h:6380", ("AUTH", "SELECT"), False, id="password and database"),
        pytest.param("redis://ann:secret@h", "h:6379", ("AUTH",), False, id="user"),
        pytest.param("rediss://h:1", "h:1", (), True, id="encrypted"),
        pytest.param("unix:///run/redis.sock", "/run/redis.sock", (), False, id="socket"),
        pytest.param("rediss+cluster://:secret@h:7000", "h:7000", ("AUTH",), True, id="cluster"),
    ],
)
def test_addresses(url: str, shown: str, hello: tuple[str, ...], is_encrypted: bool) -> None:
    target = Target.of(url)
    assert repr(target) == shown  # and no password
    assert tuple(command[0] for command in target.hello) == hello
    assert (target.context is not None) == is_encrypted


def test_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="schemes"):
        Target.of("http://h")


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        pytest.param([DEMO], {"buffer": 0}, "a client's buffer is 0; it is positive", id="no buffer"),
        pytest.param([DEMO], {"partitions": 20_000}, "20000 partitions; a store has", id="more partitions than slots"),
        pytest.param([], {}, "a client of no models", id="no models"),
        pytest.param([DEMO, DEMO], {}, r"two models of one name: \['demo', 'demo'\]", id="a name twice"),
    ],
)
def test_what_is_no_client(models: list[Model], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Core(models, Options(**options))


def test_counts_begin_at_nothing() -> None:
    found = Statistics(["demo"]).snapshot()
    assert found["events"] == {}
    assert found["models"]["demo"]["requests"] == 0
    assert len(found["models"]["demo"]["staleness"]) == len(STALENESS_SECONDS) + 1


def test_dropped_is_said_only_of_what_was() -> None:
    core = Core([DEMO, replace(DEMO, name="other", source="t")], Options(buffer=1))
    question = core.question(7, None)
    answers = core.answers(question, core.inference(question, None, None), core.found(question, [None, None]))
    assert {name: one.computation for name, one in answers.items()} == {"demo": "queued", "other": "dropped"}


def test_a_realtime_request_falls_back_when_the_store_is_not_heard() -> None:
    core = Core([with_policy(mode="realtime")], Options())
    question = core.question(7, None)
    core.answers(question, core.inference(question, None, None), core.found(question, "late"))
    assert core.snapshot()["models"]["demo"]["fallbacks"] == 1


def test_the_read_path_imports_no_torch() -> None:
    code = """
import sys
import serving.client.sync, serving.client.asynchronous
from serving.client.model import Model
from trainer.recipes import get_recipe
Model.of(get_recipe("demo"))
print(sorted(name for name in ("torch", "torchrec", "mlflow", "deltalake") if name in sys.modules))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"
