"""What one retraining of a downstream model gave, as a value that goes through JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pydantic import TypeAdapter
from pydantic_core import from_json

from features.lake import Partition
from trainer.downstream.scores import Breakdown


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of the day has an embedding to join."""

    users: float
    """Share of the day's users."""
    examples: float
    """Share of the day's examples."""
    mean_age_days: float
    """Mean age of the joined embeddings over users; 0 where none was joined."""
    by_model: dict[str, float] = field(default_factory=dict)
    """Share of the day's users, by user model."""


@dataclass(frozen=True, kw_only=True)
class DownstreamDay:
    """A downstream model retrained on the examples of `ds`: what it saw, and how both arms did."""

    model: str
    upstreams: tuple[str, ...]
    ds: date
    day_index: int
    """Days since the first of the first user model's schedule."""
    fingerprint: str
    parent_ds: date | None
    """The trained day it went on from; None: it began."""
    parent_fingerprint: str | None
    examples: Partition
    embeddings: tuple[Partition, ...]
    """The promoted partitions it could join, by user model, newest first: all of days before ds."""
    num_examples: int
    num_users: int
    coverage: Coverage
    evaluation: Breakdown | None
    """Both arms as they stood before the day, on its examples (eval NE); None on the first day."""
    training: Breakdown
    """Both arms, each batch scored before it was learnt (train NE). They begin at the rate of positives of the first
    day, which both know before its first batch."""
    seconds: float
    revision: int
    """Counts the times the day was retrained from other inputs; the next day goes on from the highest."""
    path: Path
    """The sealed folder of weights, optimizer state and manifest."""


_DOCUMENTS = TypeAdapter(DownstreamDay)


def to_json(day: DownstreamDay) -> str:
    """The `downstream.json` of a checkpoint."""
    return _DOCUMENTS.dump_json(day, indent=1).decode()


def parse(document: bytes) -> DownstreamDay:
    """The day that `to_json` wrote; ValueError if it is none."""
    found = from_json(document)
    if isinstance(found, dict) and "upstream" in found:  # of a time when a downstream model had one user model
        found["upstreams"] = [found.pop("upstream")]
    return _DOCUMENTS.validate_python(found)
