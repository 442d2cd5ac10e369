"""A run that was killed goes on; units are kept, errors named, the time left estimated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.experiments.run import Clock, UnitError, measure, run
from infra.experiments.setting import get_setting
from infra.experiments.study import home_of
from infra.settings import REPOSITORY, Settings
from tests.infra.experiments.studies import DIES, FAILS, PATIENCE_SECONDS, STUDY, WAITS, measured

FOUR = get_setting("quick", num_seeds=4)
_RUN = """
import sys
from pathlib import Path
from infra.experiments.run import run
from infra.experiments.setting import get_setting
from infra.settings import Settings
from tests.infra.experiments.studies import STUDY
settings = Settings(home=Path(sys.argv[1]), _env_file=None)
run(STUDY, get_setting("quick", num_seeds=4), settings=settings, workers=2, say=lambda line: print(line, flush=True))
"""


def _until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, _env_file=None)


def test_a_killed_run_ends_its_workers_and_goes_on(settings: Settings) -> None:
    units = STUDY.units(FOUR)
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, str(settings.home)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        _until(lambda: {0, 1, WAITS} <= {seed for seed, _ in measured(settings.home)})
        _until(lambda: all(unit.kept(home_of(settings)) for unit in units[:2]))
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read() if process.stdout else ""  # ends when every process that can write is gone
    assert process.pid not in {worker for _, worker in measured(settings.home)}
    assert "study seed 0: begun" in said

    before = [seed for seed, _ in measured(settings.home)]
    (settings.home / "go").touch()
    lines: list[str] = []
    with pytest.raises(UnitError, match=r"1 of 4 units failed: study seed 3: ValueError: seed 3 is no good"):
        run(STUDY, FOUR, settings=settings, workers=0, say=lines.append)
    assert [seed for seed, _ in measured(settings.home)][len(before) :] == [WAITS, FAILS]
    assert lines[0] == "study: 2 of 4 units are kept from before"

    three = replace(FOUR, seeds=(0, 1, 2))
    found = run(STUDY, three, settings=settings, workers=0)
    assert found == {seed: {"all": {"value": 1.5 * seed}} for seed in (0, 1, 2)}
    assert len(measured(settings.home)) == len(before) + 2


def test_a_worker_that_dies_takes_no_other_unit_with_it(settings: Settings) -> None:
    with pytest.raises(UnitError, match=r"1 of 3 units failed: study seed 4: RuntimeError: a worker process died"):
        run(STUDY, replace(FOUR, seeds=(DIES, 0, 1)), settings=settings, workers=1)
    dead, *others = STUDY.units(replace(FOUR, seeds=(DIES, 0, 1)))
    assert dead.kept(home_of(settings)) is None
    assert all(unit.kept(home_of(settings)) for unit in others)
    assert [seed for seed, _ in measured(settings.home)] == [DIES, 0, 1, DIES], "and it is tried once more"


def test_failed_units_tell_nothing_of_the_time_left() -> None:
    clock = Clock(units=STUDY.units(FOUR), seconds=[10.0], width=1)
    clock.failed("study seed 3")
    assert clock.left() == pytest.approx(20.0, abs=1.0)
    assert str(clock).startswith("[2/4,")


def test_again_forgets_and_days_differ(settings: Settings) -> None:
    one = replace(FOUR, seeds=(1,))
    for again, times in ((False, 1), (False, 1), (True, 2)):
        run(STUDY, one, settings=settings, workers=0, again=again)
        assert len(measured(settings.home)) == times
    run(STUDY, replace(one, num_days=7), settings=settings, workers=0)
    assert len(measured(settings.home)) == 3


def test_what_other_code_measured_is_measured_again(settings: Settings) -> None:
    one, home, lines = replace(FOUR, seeds=(1,)), home_of(settings), list[str]()
    (unit,) = STUDY.units(one)
    replace(unit, code="f" * 64).keep({"value": -1.0}, home, seconds=1.0)
    assert unit.kept(home) is None
    found = run(STUDY, one, settings=settings, workers=0, say=lines.append)
    assert found == {1: {"all": {"value": 1.5}}}
    assert lines[0] == "study: 1 units were measured by other code; they are measured again"
    lines.clear()
    run(STUDY, one, settings=settings, workers=0, say=lines.append)
    assert lines == ["study: 1 of 1 units are kept from before"]
    with pytest.raises(RuntimeError, match="code has changed"):
        measure(STUDY, replace(unit, code="f" * 64), settings=settings, progress=lambda line, share: None)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing was written"),
        pytest.param(b'{"values": {"val', id="half was written"),
        pytest.param(b'{"values": {"value": 1.5}}', id="without seconds"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_what_cannot_be_read_is_missing(content: bytes, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    (unit,) = STUDY.units(replace(FOUR, seeds=(1,)))
    unit.keep({"value": 1.5}, home_of(settings), seconds=1.0)
    path = unit.file(home_of(settings))
    path.write_bytes(content)
    assert unit.kept(home_of(settings)) is None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    run(STUDY, replace(FOUR, seeds=(1,)), settings=settings, workers=0)
    assert unit.kept(home_of(settings)) is not None


def test_what_is_not_a_number_is_not_kept(settings: Settings) -> None:
    (unit,) = STUDY.units(replace(FOUR, seeds=(1,)))
    with pytest.raises(ValueError, match="JSON"):
        unit.keep({"value": float("nan")}, home_of(settings), seconds=1.0)
    assert unit.kept(home_of(settings)) is None
    unit.keep({"value": 0.1 + 0.2}, home_of(settings), seconds=1.0)
    assert unit.kept(home_of(settings)) == ({"value": 0.1 + 0.2}, 1.0)
    assert json.loads(unit.file(home_of(settings)).read_text())["unit"] == "study seed 1"


@pytest.mark.parametrize(
    ("seconds", "shares", "width", "left"),
    [
        pytest.param([], {}, 1, None, id="nothing is known"),
        pytest.param([10.0, 20.0], {}, 1, 30.0, id="two are left, of 15 s each"),
        pytest.param([10.0, 20.0], {}, 2, 15.0, id="at once"),
        pytest.param([10.0, 20.0], {"a": 0.0}, 1, 30.0, id="one has just begun"),
        pytest.param([10.0, 20.0, 30.0, 20.0], {}, 2, 0.0, id="all are done"),
    ],
)
def test_the_time_left_is_estimated(
    seconds: list[float], shares: dict[str, float], width: int, left: float | None
) -> None:
    clock = Clock(units=STUDY.units(FOUR), seconds=seconds, width=width)
    for unit, share in shares.items():
        clock.told(unit, share)
    assert clock.left() == (None if left is None else pytest.approx(left, abs=1.0))
