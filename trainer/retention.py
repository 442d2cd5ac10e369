"""Which sealed days may go: not the newest ones, and not what a day that stays adds to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from infra.settings import Settings
from trainer.checkpoint import base_path, discard
from trainer.trained import TrainedDay, revisions

log = logging.getLogger(__name__)


def removable(days: Sequence[TrainedDay], *, keep_days: int) -> list[TrainedDay]:
    """All but every revision of the newest `keep_days` trained days and the bases of those; increments before what
    they add to, so that a deletion that is cut short leaves whole chains. days: oldest first."""
    if keep_days < 1:
        raise ValueError(f"keep_days is {keep_days}; the newest day is always kept: the next one begins from it")
    newest = sorted({day.ds for day in days})[-keep_days:]
    kept = {day.path.name for day in days if day.ds in newest}
    kept |= {base.name for day in days if day.ds in newest and (base := base_path(day.path)) is not None}
    gone = [day for day in days if day.path.name not in kept]
    return sorted(gone, key=lambda day: base_path(day.path) is None)


def prune(settings: Settings, model: str, *, keep_days: int) -> list[Path]:
    """Delete the removable checkpoints of a model; which. Published snapshots are copies, and stay."""
    paths = [day.path for day in removable(revisions(settings, model), keep_days=keep_days)]
    for path in paths:
        discard(path)
        log.info("removed the checkpoint %s", path)
    return paths
