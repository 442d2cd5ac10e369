"""Which sealed days may go, here and in the archive: not the newest ones, and not what a day that stays adds to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

from infra.settings import Settings
from trainer import waypoints
from trainer.archive.archive import GRACE, Archive
from trainer.archive.lease import day_held
from trainer.checkpoint import base_path, discard
from trainer.launch.record import find_records
from trainer.locks import LockedError
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
    stay. What killed uploads left in the archive goes too, and the archived waypoints of days that are trained. A day
    that somebody trains again now, or whose job may run on, stays, with what it adds to, until the next time."""
    archive = Archive.of(settings)
    days = revisions(settings, model)
    base_of = base_path if archive is None else _base_of(archive)
    gone = removable(days, keep_days=keep_days, base_of=base_of)
    if dry_run:
        return [day.path for day in gone]
    removed: list[Path] = []
    needed: set[str] = set()
    """Names of what a day that stays adds to; increments come first."""
    for day in gone:
        base = base_of(day.path)
        if day.path.name not in needed and _while_idle(archive, day, partial(_remove, archive, day.path)):
            removed.append(day.path)
        elif base is not None:
            needed.add(base.name)
    if archive is not None:
        _clear(archive, settings.checkpoints / model, days)
    return removed


def _base_of(archive: Archive) -> BaseOf:
    def base_of(path: Path) -> Path | None:
        if path.is_dir():
            return base_path(path)
        manifest = archive.manifest(path)
        return None if manifest is None or manifest.base is None else path.parent / manifest.base

    return base_of


def _while_idle(archive: Archive | None, day: TrainedDay, action: Callable[[], None]) -> bool:
    """Whether it was done: not while somebody trains the day, here or on another machine, nor while a job of it may run
    on that nobody waits for: the lock alone would go to whoever asks on the machine of the submitter that died."""
    for _, record in find_records(day.path.parents[1]):
        if (record.model, record.ds) == (day.model, str(day.ds)):
            log.info(
                "%s stays: %s may train it; run the day again, or `usermodel trainer cancel`",
                day.path.name,
                record.describe(),
            )
            return False
    try:
        with day_held(archive, day.path.with_name(f"ds={day.ds}"), token=uuid4().hex[:12]):
            action()
    except LockedError as error:
        log.info("%s stays until the next time: %s", day.path.name, error)
        return False
    return True


def _remove(archive: Archive | None, path: Path) -> None:
    if archive is not None:
        archive.remove(path)
    if path.is_dir():
        discard(path)
    log.info("removed the checkpoint %s", path)


def _clear(archive: Archive, folder: Path, days: Sequence[TrainedDay]) -> None:
    """The waypoints of trained days, then pieces that belong to nothing."""
    trained = {waypoints.folder(folder / f"ds={day.ds}").name: day for day in days}
    finished = {waypoints.folder(day.path).name for day in days}
    for prefix in archive.objects.children(archive.key_of(folder))[1]:
        within = folder / prefix.rpartition("/")[2]
        day = trained.get(within.name.rpartition("-")[0])
        if day is not None:
            _while_idle(archive, day, partial(_clear_waypoints, archive, within, finished=within.name in finished))
    archive.clear_leftovers(folder)


def _clear_waypoints(archive: Archive, within: Path, *, finished: bool) -> None:
    """Unless they are of other inputs, and so young that an attempt that was killed may go on from them."""
    since = datetime.now(UTC) - GRACE
    if finished or all(one.modified < since for one in archive.objects.under(archive.key_of(within))):
        archive.empty(within)
