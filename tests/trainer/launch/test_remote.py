"""Jobs that outlive who submitted them, behind the commands of Slurm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, Settings, child_environment
from tests.trainer.launch import slurm_here
from tests.trainer.launch.submitting import TOKEN, begin, settings_of, waypoints_of
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
from trainer.launch import remote
from trainer.launch.record import JobRecord, find_records, read_record, write_record
from trainer.launch.remote import LeftRunningError
from trainer.launch.slurm import Slurm
from trainer.locks import LockedError, check_token, exclusive
from trainer.trained import trained_days


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


def record(cluster: Path, *, job: str) -> JobRecord:
    return JobRecord(
        model="tiny",
        ds="2026-01-02",
        fingerprint="f" * 64,
        scheduler="slurm",
        token=TOKEN,
        directory=str(cluster),
        submitted=0,
        job=job,
    )


def record_of(cluster: Path) -> JobRecord:
    found = read_record(waypoints_of(cluster))
    assert found is not None
    return found


def end_once_joined(cluster: Path, caplog: pytest.LogCaptureFixture, message: str) -> None:
    until(lambda: "joining slurm job 1" in caplog.text)
    (cluster / "end").write_text(message)


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
    threading.Thread(target=end_once_joined, args=(cluster, caplog, message)).start()
    if error is None:  # as if it was killed before it wrote down which job it is
        assert Slurm(settings).find("another") is None
        remote.join(replace(left, job=None), waypoints_of(cluster), settings=settings)
    else:
        with pytest.raises(RuntimeError, match=f"training job FAILED: rank 0: {error}"):
            remote.join(left, waypoints_of(cluster), settings=settings)
    assert "| the rank runs" in caplog.text
    assert [path.name for path in (cluster / "cluster").iterdir()] == ["1"], "no other job was submitted"
    assert find_records(settings.checkpoints) == []


def replace_command(cluster: Path, name: str, *, then: str) -> None:
    """The cluster's command, which does more before it answers: `then`, in a shell, whose parent calls it."""
    real = f'"{sys.executable}" -S "{slurm_here.__file__}" {name} "$@"'
    (cluster / "bin" / name).write_text(f'#!/bin/sh\nsaid=$({real})\n{then}\necho "$said"\n')


@pytest.fixture
def asked_by_signals() -> Iterator[None]:
    """What a signal finds when nobody waits for a job: an end, not that of the tests."""
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("nobody cancelled the job"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


def begin_again(cluster: Path) -> None:
    """As `begin`, of a job that is there."""
    waypoints_of(cluster).mkdir(parents=True)
    job = slurm_here.submit("sleep 1000", cluster, token=TOKEN)
    remote.join(record(cluster, job=job), waypoints_of(cluster), settings=settings_of(cluster))


@pytest.mark.parametrize(
    ("number", "ended"),
    [pytest.param("TERM", SystemExit, id="SIGTERM"), pytest.param("INT", KeyboardInterrupt, id="C-c")],
)
@pytest.mark.parametrize(
    ("start", "during"),
    [
        pytest.param(begin, "sbatch", id="while it submits"),
        pytest.param(begin, "scontrol", id="while it waits"),
        pytest.param(begin_again, "scontrol", id="while it looks for one to join"),
    ],
)
@pytest.mark.usefixtures("asked_by_signals")
def test_an_attempt_that_is_asked_to_end_cancels_its_job(
    cluster: Path, start: Callable[[Path], None], during: str, number: str, ended: type[BaseException]
) -> None:
    (cluster / "full").touch()
    replace_command(cluster, during, then=f"kill -{number} $PPID")
    with pytest.raises(ended) as found:
        start(cluster)
    assert str(found.value) in ("143", "")
    assert json.loads((cluster / "cluster/1/state").read_text()) == ["CANCELLED", "0:15"]
    assert read_record(waypoints_of(cluster)) is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("asked_by_signals")
def test_a_job_that_cannot_be_cancelled_keeps_its_day(cluster: Path) -> None:
    (cluster / "full").touch()
    lock = waypoints_of(cluster).parent / "ds=2026-01-02.lock"
    replace_command(cluster, "scontrol", then="kill -TERM $PPID")
    (cluster / "bin" / "scancel").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    said = r"slurm job 1 could not be cancelled \(Unable to contact.*may run on.*`usermodel trainer cancel`"
    with pytest.raises(LeftRunningError, match=said), exclusive(lock, token=TOKEN):
        begin(cluster)
    check_token(lock, token=TOKEN)
    assert record_of(cluster).job == "1", "the next attempt joins it"


@pytest.mark.parametrize(
    "then", [pytest.param("", id="who submits is told"), pytest.param("echo Socket timed out >&2; exit 1", id="or not")]
)
def test_a_person_cancels_it_and_who_waits_says_so(cluster: Path, then: str) -> None:
    (cluster / "full").touch()
    replace_command(cluster, "sbatch", then=then)

    def cancel() -> None:
        until(lambda: (found := read_record(waypoints_of(cluster))) and found.job == "1")
        remote.cancel(record_of(cluster), waypoints_of(cluster), settings=settings_of(cluster))

    with ThreadPoolExecutor() as pool:
        cancelled = pool.submit(cancel)
        with pytest.raises(RuntimeError, match=r"somebody cancelled the job \(CANCELLED, exit code 0:15\)"):
            begin(cluster)
        cancelled.result()


def test_a_job_that_is_gone_is_forgotten(cluster: Path) -> None:
    folder = waypoints_of(cluster)
    folder.mkdir(parents=True)
    gone = record(cluster, job="77")
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
    runs = record(cluster, job="1")
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
