"""What a training job is told: one JSON file, read by every rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pydantic import TypeAdapter

from features.lake import Partition
from trainer.config import TrainingConfig
from trainer.increments.form import BaseDay
from trainer.recipe import Checkpoints, DeviceName
from trainer.trained import TrainedDay


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Learn one day. It holds all that decides the result: a rank asks no registry, and its machine's settings only how
    to reach a lake in object storage."""

    config: TrainingConfig
    ds: date
    lake: str
    examples: Partition
    parent: TrainedDay | None
    """Where weights and optimizer state come from; None for a cold start."""
    fingerprint: str
    revision: int
    destination: Path
    lock: Path
    token: str
    """The attempt: names its partial checkpoint and must still hold the lock when it publishes."""
    device: DeviceName
    deadline_seconds: float
    """A rank that waits longer than this for another, or for its own data, fails and says for whom."""
    outlives: bool = False
    """The job outlives who submitted it: rank 0 keeps the lock, by the same token."""
    checkpoint_seconds: float = 0
    """Save so often within the day; 0: never."""
    profile_steps: int = 0
    """Above 0: profile so many steps of the day, and publish nothing."""
    ids: Path | None = None
    """The sealed folder of `trainer.identities.decide`; None where no table is managed and nothing is told of them."""
    gap_days: int = 0
    """Days between the parent's and this one."""
    base: BaseDay | None = None
    """What the day's checkpoint may be an increment of."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)


_ASSIGNMENTS = TypeAdapter(Assignment)


def write_assignment(assignment: Assignment, path: Path) -> None:
    """Write it as JSON."""
    path.write_bytes(_ASSIGNMENTS.dump_json(assignment, indent=1))


def read_assignment(path: Path) -> Assignment:
    """Read what `write_assignment` wrote."""
    return _ASSIGNMENTS.validate_json(path.read_bytes())
