"""Which sealed days may go, here and in the archive: not the newest ones, and not what a day that stays adds to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.settings import Settings
from trainer import waypoints
from trainer.archive.archive import Archive
from trainer.checkpoint import base_path, discard
from trainer.trained import TrainedDay, revisions

log = logging.getLogger(__name__)

BaseOf = Callable[[Path], Path | None]
"""The checkpoint that another adds to, which need not be on this machine."""


def removable(days: Sequence[TrainedDay], *, keep_days: int, base_of: BaseOf = base_path) -> list[TrainedDay]:
    """All but every revision of the newest `keep_days` trained days and the bases of those; increments before what
    they add to, so that a deletion that is cut short leaves whole chains. days: oldest first."""
    if keep_days < 1:
        raise ValueError(f"keep_days is {keep_days}; the newest day is always kept: the next one begins from it")
    newest = sorted({day.ds for day in days})[-keep_days:]
    kept = {day.path.name for day in days if day.ds in newest}
    kept |= {base.name for day in days if day.ds in newest and (base := base_of(day.path)) is not None}
    gone = [day for day in days if day.path.name not in kept]
    return sorted(gone, key=lambda day: base_of(day.path) is None)


def prune(settings: Settings, model: str, *, keep_days: int, dry_run: bool = False) -> list[Path]:
    """Delete the removable checkpoints of a model, here and in the archive; which. Published snapshots are copies, and
    stay. What killed uploads left in the archive goes too, and the archived waypoints of days that are trained."""
    archive = Archive.of(settings)
    days = revisions(settings, model)
    base_of = base_path if archive is None else _base_of(archive)
    paths = [day.path for day in removable(days, keep_days=keep_days, base_of=base_of)]
    for path in [] if dry_run else paths:
        if archive is not None:
            archive.remove(path)
        if path.is_dir():
            discard(path)
        log.info("removed the checkpoint %s", path)
    if archive is not None and not dry_run:
        _clear(archive, settings.checkpoints / model, days)
    return paths


def _base_of(archive: Archive) -> BaseOf:
    def base_of(path: Path) -> Path | None:
        if path.is_dir():
            return base_path(path)
        manifest = archive.manifest(path)
        return None if manifest is None or manifest.base is None else path.parent / manifest.base

    return base_of


def _clear(archive: Archive, folder: Path, days: Sequence[TrainedDay]) -> None:
    """The waypoints of trained days, then pieces that belong to nothing."""
    trained = {waypoints.folder(folder / f"ds={day.ds}").name for day in days}
    for prefix in archive.objects.children(archive.key_of(folder))[1]:
        within = folder / prefix.rpartition("/")[2]
        if within.name.rpartition("-")[0] in trained:
            archive.empty(within)
    archive.clear_leftovers(folder)
