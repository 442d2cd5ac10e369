"""Jobs that outlive who submitted them, behind the commands of Slurm."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, Settings, child_environment
from tests.trainer.launch import slurm_here
from tests.trainer.launch.submitting import TOKEN, settings_of, waypoints_of
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
from trainer.launch import remote
from trainer.launch.record import JobRecord, find_records, read_record, write_record
from trainer.launch.remote import LeftRunningError
from trainer.launch.slurm import Slurm
from trainer.locks import LockedError, check_token, exclusive
from trainer.trained import trained_days


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of this machine; its jobs end with the test."""
    for name, value in slurm_here.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "_POLL_SECONDS", 0.1)
    yield tmp_path
    for job in (tmp_path / "cluster").iterdir():
        slurm_here.scancel([job.name])


@pytest.fixture
def submitted(cluster: Path) -> subprocess.Popen[str]:
    """A process whose job's rank runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.launch.submitting", str(cluster)],
        cwd=REPOSITORY,
        env=child_environment(PYTHONPATH=str(REPOSITORY)),
        stderr=subprocess.PIPE,
        text=True,
    )
    until((cluster / "began").exists)
    return process


def until(true: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def record_of(cluster: Path) -> JobRecord:
    found = read_record(waypoints_of(cluster))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("message", "error"),
    [
        pytest.param("", None, id="which succeeds"),
        pytest.param("no such id 7", "ValueError: no such id 7", id="which fails"),
    ],
)
def test_the_next_attempt_joins_the_job_of_one_that_was_killed(
    submitted: subprocess.Popen[str],
    cluster: Path,
    caplog: pytest.LogCaptureFixture,
    message: str,
    error: str | None,
) -> None:
    caplog.set_level("INFO")
    submitted.kill()
    submitted.communicate()
    left, settings = record_of(cluster), settings_of(cluster)
    assert (left.job, left.token) == ("1", TOKEN)
    ((_, status),) = remote.jobs(settings)
    assert status is not None
    assert status.reason == "RUNNING"
    threading.Timer(0.5, (cluster / "end").write_text, [message]).start()
    if error is None:  # as if it was killed before it wrote down which job it is
        assert Slurm(settings).find("another") is None
        remote.join(replace(left, job=None), waypoints_of(cluster), settings=settings)
    else:
        with pytest.raises(RuntimeError, match=f"training job FAILED: rank 0: {error}"):
            remote.join(left, waypoints_of(cluster), settings=settings)
    assert "| the rank runs" in caplog.text
    assert [path.name for path in (cluster / "cluster").iterdir()] == ["1"], "no other job was submitted"
    assert find_records(settings.checkpoints) == []


def test_an_attempt_that_is_asked_to_end_cancels_its_job(submitted: subprocess.Popen[str], cluster: Path) -> None:
    until(lambda: record_of(cluster).job == "1")
    submitted.terminate()
    said = submitted.communicate(timeout=60)[1]
    assert submitted.returncode == 143
    assert "this process was asked to end" in said
    status = Slurm(settings_of(cluster)).status("1")
    assert status is not None
    assert status.reason == "CANCELLED"
    assert read_record(waypoints_of(cluster)) is None


def test_a_person_cancels_it_and_who_waits_says_so(submitted: subprocess.Popen[str], cluster: Path) -> None:
    until(lambda: record_of(cluster).job == "1")
    remote.cancel(record_of(cluster), waypoints_of(cluster), settings=settings_of(cluster))
    said = submitted.communicate(timeout=60)[1]
    assert "somebody cancelled the job (CANCELLED, exit code 0:15)" in said


def test_a_job_that_is_gone_is_forgotten(cluster: Path) -> None:
    folder = waypoints_of(cluster)
    folder.mkdir(parents=True)
    gone = JobRecord(
        model="tiny",
        ds="2026-01-02",
        fingerprint="f" * 64,
        scheduler="slurm",
        token=TOKEN,
        directory=str(cluster),
        submitted=0,
        job="77",
    )
    write_record(gone, folder)
    remote.join(gone, folder, settings=settings_of(cluster))
    assert read_record(folder) is None


TRAIN = """
import sys
from pathlib import Path
from infra.settings import Settings
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
train(planted_recipe(), DAY, settings=Settings.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_day_is_trained_once_though_who_submitted_it_was_killed(home: Settings, cluster: Path) -> None:
    settings = home.model_copy(
        update={"home": cluster / "home", "lake_uri": home.lake, "scheduler": "slurm", "ranks": 1, "device": "cpu"}
    )
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, settings.model_dump_json()],
        cwd=REPOSITORY,
        env=child_environment(PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"),
    )
    until(lambda: [record for _, record in find_records(settings.checkpoints) if record.job])
    process.kill()
    process.wait()
    ((folder, left),) = find_records(settings.checkpoints)
    trained = train(planted_recipe(), DAY, settings=settings)
    assert [path.name for path in (cluster / "cluster").iterdir()] == ["1"]
    assert (trained.num_examples, trained.ds, left.fingerprint) == (4000, DAY, trained.fingerprint)
    assert not folder.exists()
    assert trained_days(settings, "tiny") == [trained]


def test_a_scheduler_that_does_not_answer_keeps_the_lock_for_its_job(cluster: Path) -> None:
    folder, lock = waypoints_of(cluster), waypoints_of(cluster).parent / "ds=2026-01-02.lock"
    folder.mkdir(parents=True)
    runs = JobRecord(
        model="tiny",
        ds="2026-01-02",
        fingerprint="f" * 64,
        scheduler="slurm",
        token=TOKEN,
        directory=str(cluster),
        submitted=0,
        job="1",
    )
    write_record(runs, folder)
    (cluster / "bin" / "scontrol").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    with pytest.raises(LeftRunningError, match="cannot be asked: Unable to contact"), exclusive(lock, token=TOKEN):
        remote.join(runs, folder, settings=settings_of(cluster))
    check_token(lock, token=TOKEN)
    with exclusive(lock, token=TOKEN):
        check_token(lock, token=TOKEN)
    with pytest.raises(LockedError, match="released"):
        check_token(lock, token=TOKEN)
    assert read_record(folder) == runs
