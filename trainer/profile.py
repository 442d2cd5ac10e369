"""What a profile of training steps found. Light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

_RESULT = "profile.json"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Of rank 0; milliseconds per step."""

    model: str
    ds: str
    ranks: int
    device: str
    steps: int
    batch_size: int
    """Per rank."""
    step_ms: float
    """Of the clock, with the profiler at work."""
    parts: dict[str, float]
    families: dict[str, float]
    """Time in the operations themselves: of the device where that is a GPU. The reader's thread is not in it."""
    trace: Path
    """For chrome://tracing or Perfetto."""


_PROFILES = TypeAdapter(Profile)


def write_profile(found: Profile, directory: Path) -> None:
    """As JSON."""
    (directory / _RESULT).write_bytes(_PROFILES.dump_json(found, indent=1))


def read_profile(directory: Path) -> Profile:
    """What `write_profile` wrote."""
    return _PROFILES.validate_json((directory / _RESULT).read_bytes())
