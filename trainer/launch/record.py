"""Which job trains a day: a file beside the day's waypoints, written before the job is waited for."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

_NAME = "job.json"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job that was submitted, or is about to be: without an id it is looked for by its token."""

    model: str
    ds: str
    fingerprint: str
    scheduler: str
    token: str
    """Of the attempt, which is one with the job's: who joins the job holds the day's lock by the same token."""
    directory: str
    """The job's."""
    submitted: float
    """Seconds since 1970."""
    job: str | None = None
    """The scheduler's id of it."""

    def named(self, job: str) -> JobRecord:
        """The same, submitted."""
        return replace(self, job=job)

    def describe(self) -> str:
        """For a person."""
        return f"{self.scheduler} job {self.job or '(not submitted)'}"


def write_record(record: JobRecord, folder: Path) -> None:
    """Keep it, whole or not at all, also when the machine stops."""
    partial = folder / f".{_NAME}-{uuid4().hex[:12]}"
    with partial.open("w") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / _NAME)


def read_record(folder: Path) -> JobRecord | None:
    """The job of the day whose waypoints are in `folder`; None: there is none."""
    try:
        return JobRecord(**json.loads((folder / _NAME).read_text()))
    except FileNotFoundError:
        return None


def remove_record(folder: Path) -> None:
    """The job is over, and what it did is known."""
    (folder / _NAME).unlink(missing_ok=True)


def find_records(checkpoints: Path) -> list[tuple[Path, JobRecord]]:
    """Of every model and day that has one: (its folder, the record), in order of days."""
    folders = sorted(path.parent for path in checkpoints.glob(f"*/.within-*/{_NAME}"))
    found = [(folder, read_record(folder)) for folder in folders]
    return [(folder, record) for folder, record in found if record is not None]
