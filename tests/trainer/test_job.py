from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from features.lake import Lake, MissingPartitionError
from infra.settings import REPOSITORY, Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import find_parent, train
from trainer.locks import LockedError, check_token, exclusive
from trainer.trained import TrainedDay, find_trained, trained_days

SECOND, THIRD = DAY + timedelta(1), DAY + timedelta(2)


def test_two_days_learn_what_was_planted(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    first, second = pair
    assert (first.parent_ds, first.parent_fingerprint) == (None, None)
    assert (second.parent_ds, second.parent_fingerprint) == (DAY, first.fingerprint)
    assert first.num_examples == second.num_examples == 4000
    assert first.metrics["click"]["examples"] == 4000
    click, before = second.metrics["click"]["ne"], first.metrics["click"]["ne"]
    assert click is not None
    assert before is not None
    assert click < before
    assert click < 0.97
    assert trained_days(home, "tiny") == [first, second]
    assert find_trained(home, "tiny", SECOND) == second
    assert find_trained(home, "tiny", THIRD) is None


def test_a_trained_day_is_not_trained_again(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    started = time.monotonic()
    assert train(planted_recipe(), SECOND, settings=home) == pair[1]
    assert time.monotonic() - started < 2
    assert "unchanged model=tiny ds=2026-01-02" in caplog.text


def test_a_day_without_examples_is_refused(home: Settings) -> None:
    with pytest.raises(MissingPartitionError, match="examples/planted has no partition ds=2026-02-01"):
        train(planted_recipe(), DAY + timedelta(31), settings=home)


def test_a_gap_is_refused_unless_it_is_meant(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    late = DAY + timedelta(4)
    with pytest.raises(ValueError, match=r"not trained on 2026-01-04.*newest good day is 2026-01-02.*--after-gap"):
        find_parent(home, "tiny", late, after_gap=False)
    assert find_parent(home, "tiny", late, after_gap=True) == pair[1]
    assert find_parent(home, "tiny", DAY, after_gap=False) is None


def test_one_trainer_per_day(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    lock = home.checkpoints / "tiny" / f"ds={THIRD}.lock"
    with (
        exclusive(lock, token="first"),  # noqa: S106
        pytest.raises(LockedError, match=f"held by pid {os.getpid()} on "),
    ):
        train(planted_recipe(), THIRD, settings=home)
    with exclusive(lock, token="second"):  # noqa: S106
        check_token(lock, token="second")  # noqa: S106
        with pytest.raises(LockedError, match="taken by another attempt"):
            check_token(lock, token="first")  # noqa: S106


def test_a_poisoned_value_is_named_and_nothing_is_published(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=2, _env_file=None)
    values = [0.5] * 2000
    values[700] = float("nan")
    commit_day(Lake(settings.lake), DAY, activity=pa.array(values, pa.float32()))
    with pytest.raises(
        RuntimeError, match=r"ValueError: examples/planted ds=2026-01-01 batch \d+: column activity has"
    ):
        train(planted_recipe(), DAY, settings=settings)
    assert trained_days(settings, "tiny") == []


TRAIN = """
import logging, sys
from pathlib import Path
from infra.settings import Settings
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
logging.basicConfig(level="INFO")
train(planted_recipe(), DAY, settings=Settings(home=Path(sys.argv[1]), ranks=2, _env_file=None))
"""


def start_training(home: Path) -> subprocess.Popen[str]:
    """`train` in a process of its own; returns once its ranks are learning."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(home)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " learning model=" in line:
            time.sleep(0.3)
            return process
    raise AssertionError("training ended before it began to learn")


def processes_of(home: Path) -> dict[int, int]:
    """The job's processes under `home`: pid to parent's pid. Ranks are children of the agent."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(home).encode() in command and b"trainer.agent" in command:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def ranks_of(home: Path) -> list[int]:
    processes = processes_of(home)
    return sorted(pid for pid, parent in processes.items() if parent in processes)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and parent-death signals")
def test_a_killed_job_says_so_leaves_no_orphan_and_is_repeated(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=2, _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=20_000)

    rank_killed = start_training(tmp_path)
    os.kill(ranks_of(tmp_path)[-1], signal.SIGKILL)
    _, errors = rank_killed.communicate(timeout=60)
    assert rank_killed.returncode != 0
    assert "a rank was killed: Signal 9 (SIGKILL)" in errors
    assert trained_days(settings, "tiny") == []

    launcher_killed = start_training(tmp_path)
    assert len(ranks_of(tmp_path)) == 2
    launcher_killed.kill()
    launcher_killed.communicate()
    assert wait_until(lambda: not processes_of(tmp_path), seconds=30)

    leftover = tmp_path / "checkpoints" / "tiny"
    assignment = json.loads(next((tmp_path / "logs/training").glob("*/assignment.json")).read_text())
    partial = leftover / f".partial-{Path(assignment['destination']).name}-killed"
    partial.mkdir(parents=True)
    trained = train(planted_recipe(), DAY, settings=settings)
    assert trained.num_examples == 20_000
    assert not partial.exists()
    assert trained_days(settings, "tiny") == [trained]
