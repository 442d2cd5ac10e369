"""The waypoints of a running day, archived while it goes on: another machine goes on from there when this one is lost.

It works beside the ranks, in the process that waits for them, from what they have sealed: no step waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.storage_errors import StorageError
from trainer import waypoints
from trainer.archive.archive import Archive
from trainer.archive.download import bring
from trainer.archive.upload import push
from trainer.checkpoint import DamagedCheckpointError, is_complete
from trainer.identities import FOLDER as IDS

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_AT_A_TIME = 2
"""Pieces in flight: an upload has until the next waypoint, and shares the machine with the ranks."""
_RETRY_SECONDS = 30.0


class _StoppedError(Exception):
    """The day is over."""


@contextmanager
def following(archive: Archive | None, destination: Path) -> Iterator[None]:
    """Archive the day's newest waypoint, now and then, for the block, which it neither stops nor delays: what goes
    wrong is logged, and tried again."""
    if archive is None:
        yield
        return
    stopped = threading.Event()
    thread = threading.Thread(target=_follow, args=(archive, destination, stopped), name="archive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _follow(archive: Archive, destination: Path, stopped: threading.Event) -> None:
    done: Path | None = None
    newest: Path | None
    wait_seconds = _POLL_SECONDS
    while not stopped.wait(wait_seconds):
        newest, wait_seconds = None, _POLL_SECONDS
        try:
            newest = next(iter(waypoints.sealed(destination)), None)
            if newest is None or newest == done:
                continue
            archive_waypoint(archive, destination, newest, stopped=stopped)
            done = newest
        except FileNotFoundError:  # a newer one has replaced it meanwhile
            continue
        except _StoppedError:
            return
        except Exception as error:  # whatever it is, the day goes on
            wait_seconds = _RETRY_SECONDS
            log.warning("the waypoint %s is not archived (%s); tried again in %.0f s", newest, error, wait_seconds)


def archive_waypoint(archive: Archive, destination: Path, waypoint: Path, *, stopped: threading.Event) -> None:
    """Archive one, with the id maps that it goes with, and let older ones go."""

    def go_on() -> None:
        if stopped.is_set():
            raise _StoppedError

    ids = waypoint.parent / IDS
    for folder in (ids, waypoint) if is_complete(ids) else (waypoint,):
        push(archive, folder, go_on=go_on, at_a_time=_AT_A_TIME)
    for old in _archived(archive, destination)[waypoints.KEPT :]:
        archive.remove(old)


def recall(archive: Archive | None, destination: Path) -> None:
    """Bring the day's newest waypoint from the archive, if it is further than those that are here, with the id maps.

    One that is damaged there is left; the one before it is brought. StorageError: the archive could not be asked.
    """
    if archive is None:
        return
    here = [path.name for path in waypoints.sealed(destination)[:1]]
    for waypoint in _archived(archive, destination):
        if here and waypoint.name <= here[0]:
            return
        try:
            bring(archive, waypoint.parent / IDS)
            bring(archive, waypoint)
            log.info("goes on from another machine's waypoint %s", archive.uri_of(waypoint))
            return
        except DamagedCheckpointError as error:
            log.error("skipped an archived waypoint: %s", error)


def forget(archive: Archive | None, destination: Path) -> None:
    """Remove the archived waypoints of a day that is archived itself. What cannot be removed now is by retention."""
    if archive is None:
        return
    folder = waypoints.folder(destination)
    try:
        archive.empty(folder)
    except StorageError as error:
        log.warning("the archived waypoints in %s stay for now: %s", archive.uri_of(folder), error)


def _archived(archive: Archive, destination: Path) -> list[Path]:
    """The newest first."""
    folder = waypoints.folder(destination)
    return [folder / name for name in reversed(archive.names(folder)) if name.startswith("step=")]
