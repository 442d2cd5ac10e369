"""Checkpoints within a day: where the next attempt goes on when this one is killed.

They live in a folder of their own beside the day's checkpoint, hidden from whoever looks for trained days, and go
when the day is sealed. Each is sealed as the day's is. Light to import: the launcher clears them.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer.checkpoint import DamagedCheckpointError, discard, is_complete, read_document

log = logging.getLogger(__name__)

DOCUMENT = "waypoint.json"
FORMAT = 2
"""Of what a waypoint holds of each rank: one of another format is not gone on from."""
KEPT = 2
"""The newest ones; the second is for the day on which the first turns out to be damaged."""
_FOLDER = ".within-"
_STEP = re.compile(r"step=\d{9}")


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """A day that is learnt up to a step."""

    fingerprint: str
    """Of the day, as `TrainedDay.fingerprint`."""
    step: int
    """Steps that are learnt: the next one reads batch `step`."""
    ranks: int
    resumed: int
    """How often the day had been resumed when this was saved."""
    seconds: float
    """In the training loop, over all attempts."""
    format: int = 1


_DOCUMENTS = TypeAdapter(Waypoint)


def to_json(waypoint: Waypoint) -> str:
    """The `waypoint.json` of a checkpoint."""
    return _DOCUMENTS.dump_json(waypoint, indent=1).decode()


def folder(destination: Path) -> Path:
    """Of the waypoints on the way to the day's checkpoint `destination`."""
    return destination.parent / f"{_FOLDER}{destination.name}"


def waypoint_path(destination: Path, step: int) -> Path:
    """Where the waypoint of a step lives once sealed."""
    return folder(destination) / f"step={step:09}"


def sealed(destination: Path) -> list[Path]:
    """The sealed waypoints, the newest first."""
    found = [path for path in folder(destination).glob("step=*") if _STEP.fullmatch(path.name) and is_complete(path)]
    return sorted(found, reverse=True)


def read_waypoint(path: Path) -> Waypoint:
    """The document of a sealed waypoint; DamagedCheckpointError where it is not what was written."""
    text = read_document(path, DOCUMENT)
    try:
        return _DOCUMENTS.validate_json(text or "")
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path / DOCUMENT} cannot be read ({error}); the waypoint is not used") from error


def set_aside(path: Path) -> Path:
    """Rename a damaged waypoint, so that a person can look at it until the day is trained; the new place."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def retain(destination: Path, *, kept: int = KEPT) -> None:
    """Delete all but the newest sealed waypoints."""
    for path in sealed(destination)[kept:]:
        discard(path)


def prepare(destination: Path, *, siblings: str) -> None:
    """Make the folder, without what earlier attempts left half-written, and clear those of the same day with other
    inputs, whose names match the glob `siblings`. The caller holds the lock on the day."""
    ours = folder(destination)
    for other in destination.parent.glob(f"{_FOLDER}{siblings}"):
        if other != ours:
            log.info("the day's inputs changed: removed %s", other)
            shutil.rmtree(other)
    ours.mkdir(parents=True, exist_ok=True)
    for leftover in ours.glob(".partial-*"):
        shutil.rmtree(leftover)


def clear(destination: Path) -> None:
    """Delete every waypoint of a day that is sealed."""
    shutil.rmtree(folder(destination), ignore_errors=True)
