"""A process that submits a job and waits for it, as a task does: `python -m tests.trainer.launch.submitting FOLDER`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from infra.settings import Settings
from trainer import failure
from trainer.failure import Failure
from trainer.launch import remote
from trainer.launch.record import JobRecord
from trainer.launch.role import Work

TOKEN = "0123456789ab"  # noqa: S105


def settings_of(folder: Path) -> Settings:
    """Slurm, one host, one rank."""
    return Settings(home=folder, scheduler="slurm", ranks=1, device="cpu", _env_file=None)


def begin(folder: Path) -> None:
    """Submit the job whose rank is `rank`, and wait."""
    waypoints, directory = waypoints_of(folder), folder / f"tiny-ds=2026-01-02-{TOKEN}"
    for path in (waypoints, directory):
        path.mkdir(parents=True)
    entry = "tests.trainer.launch.submitting:rank"
    work = Work(entry=entry, arguments=(str(folder), str(directory)), directory=directory)
    record = JobRecord(
        model="tiny",
        ds="2026-01-02",
        fingerprint="f" * 64,
        scheduler="slurm",
        token=TOKEN,
        directory=str(directory),
        submitted=time.time(),
    )
    remote.run(work, record, waypoints, settings=settings_of(folder))


def waypoints_of(folder: Path) -> Path:
    """Where the job's record is."""
    return folder / "checkpoints" / "tiny" / ".within-ds=2026-01-02-ffffffff"


def rank(folder: str, directory: str) -> None:
    """Run until the file `end` is there; fail where it says how."""
    (Path(folder) / "began").touch()
    print("the rank runs", flush=True)
    end = Path(folder) / "end"
    while not end.exists():
        time.sleep(0.05)
    if message := end.read_text():
        kind: failure.Kind = "own"
        Failure(rank=0, time=0, kind=kind, type="ValueError", message=message).write(Path(directory))
        raise SystemExit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    begin(Path(sys.argv[1]))
