"""What a person is shown of a user."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.commands import cli
from infra.settings import get_settings
from serving.record import Entry
from serving.served import Served
from serving.store import Request, Store, Write
from serving.view import view_models, view_sources
from tests.serving.servers import Server, redis_server

NOW_MS = int(1000 * time.time())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        store = Store(client)
        store.require_layout()
        store.announce(
            Served(model="m", source="s", version=3, ds="2026-01-03", num_embeddings=2, dim=2, withdrawn=(2,))
        )
        for version, vectors in ((1, [[1, 0], [1, 0]]), (2, [[1, 1], [1, 0]]), (3, [[0, 1], [0, 0]])):
            one = Entry(version=version, feature_ms=NOW_MS - 10_000 + version, vectors=np.array(vectors, np.float16))
            store.write([Write(user=7, entries={"m": (one, 600.0)}, future_seconds=60)])
        store.enqueue(
            [
                Request(
                    source="s", user=7, feature_ms=NOW_MS, payload=b"xyz", ttl_seconds=60, longest=9, future_seconds=60
                )
            ]
        )  # fmt: skip
        client.set(store.keys.record("m", 9), b"nonsense")
        yield server


def test_a_user_as_numbers(running: Server) -> None:
    with running.client() as client:
        store = Store(client)
        (found,) = view_models(store, 7, ("m",))
        assert [(entry.version, entry.pooled) for entry in found.entries] == [(3, True), (2, False), (1, True)]
        assert found.entries[1].cosines == pytest.approx((0.707107, np.nan), nan_ok=True)
        assert all(10 <= entry.age_seconds < 3_600 for entry in found.entries)
        assert found.seconds_left is not None
        assert 0 < found.seconds_left <= 600
        (source,) = view_sources(store, 7, ("s",))
        assert (source.num_bytes, source.queued) == (11, True)
        assert source.featured_at is not None
        assert int(1000 * source.featured_at.timestamp()) == NOW_MS


def test_users_of_whom_nothing_can_be_shown(running: Server) -> None:
    with running.client() as client:
        store = Store(client)
        cold, damaged = view_models(store, 8, ("m",))[0], view_models(store, 9, ("m",))[0]
        assert (cold.entries, cold.damage, cold.seconds_left) == ((), "", None)
        assert (damaged.entries, damaged.damage) == ((), "a record of format 110; this code reads [1, 2]")
        (source,) = view_sources(store, 8, ("s",))
        assert (source.featured_at, source.num_bytes, source.queued) == (None, 0, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["7"], ["m, expires in", "0.7071", "-", "11 bytes of", "a request waits"]),
        (["8"], ["m: cold", "features of s: unknown"]),
        (["9"], ["m: a record of format 110"]),
        (["7", "--recipe", "demo"], ["demo: cold"]),
    ],
    ids=["known", "cold", "damaged", "of a recipe that is not served"],
)
def test_a_user_as_tables(
    running: Server, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.setenv("USERMODEL_REDIS_URL", running.url)
    get_settings.cache_clear()
    shown = CliRunner().invoke(cli, ["serving", "user", *arguments])
    assert shown.exit_code == 0, shown.output
    for word in words:
        assert word in shown.output
    as_json = CliRunner().invoke(cli, ["serving", "user", *arguments, "--json"])
    assert json.loads(as_json.stdout)["user"] == int(arguments[0])


def test_without_a_store_the_remedy_is_named() -> None:
    shown = CliRunner().invoke(cli, ["serving", "user", "7"])
    assert isinstance(shown.exception, ValueError)
    assert "run infra/up, or set USERMODEL_REDIS_URL" in str(shown.exception)
