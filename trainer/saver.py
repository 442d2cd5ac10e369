"""Saves a running pass now and then, while it goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer import waypoints
from trainer.assignment import Assignment
from trainer.checkpoint import hashed_part, partial_path, save_state, seal
from trainer.locks import check_token
from trainer.planning import document
from trainer.staging import Stager
from trainer.waypoints import Waypoint

log = logging.getLogger(__name__)

_TIMEOUT = timedelta(hours=1)
"""Of the collectives in the background: they wait for the slowest rank's disk. A rank that dies ends them at once."""


class SaveFailedError(RuntimeError):
    """A checkpoint within the day could not be written; the pass does not go on without."""


class WaypointSaver:
    """The pass's own thread decides (rank 0) and stages (all ranks, at the same step); a thread beside it writes,
    seals and retains, over a process group of its own. At most one save runs at a time.

    Built on every rank at once. An error of the thread is told by `error`, and raised by `finish`.
    """

    def __init__(self, assignment: Assignment, *, plan: document.SavedPlan, resumed: int, began: float) -> None:
        """resumed: how often the day was, so far. began: when it did (monotonic), as if never interrupted."""
        self._assignment = assignment
        self._plan = plan
        self._resumed = resumed
        self._group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        self._rank = dist.get_rank()
        self._stager = Stager()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._last = time.monotonic()
        self._began = began
        self.stall_seconds: list[float] = []
        """How long training waited for each save;"""
        self.save_seconds: list[float] = []
        """and how long the save took after that, until it was sealed."""

    @property
    def error(self) -> BaseException | None:
        """What the last save died of."""
        return self._error

    @property
    def is_running(self) -> bool:
        """Whether a save is being written."""
        return self._thread is not None and self._thread.is_alive()

    def is_due(self) -> bool:
        """Whether to save after this step; what rank 0 says counts."""
        now = time.monotonic()
        if now - self._last < self._assignment.checkpoint_seconds:
            return False
        if self.is_running:
            log.info("skipped a save: the one before still runs (%.1f s)", now - self._last)
            self._last = now
            return False
        return True

    def warm_up(self, state: Mapping[str, Any]) -> None:
        """Take the memory for the copy now, once, rather than in the first save."""
        self._stager.stage(state)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Begin to save the pass as it is after `step` steps. Returns once `state` is copied."""
        self._last = began = time.monotonic()
        if self._thread is not None:
            self._thread.join()  # rank 0 saw its own end; this rank's does not take longer
        staged = self._stager.stage(state)
        waypoint = Waypoint(
            fingerprint=self._assignment.fingerprint,
            step=step,
            ranks=dist.get_world_size(),
            resumed=self._resumed,
            seconds=round(began - self._began, 3),
            format=waypoints.FORMAT,
        )
        self.stall_seconds.append(time.monotonic() - began)
        self._thread = threading.Thread(target=self._run, args=(waypoint, staged), name="saver", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the save that runs. SaveFailedError where one failed."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise SaveFailedError(f"the last checkpoint within the day failed: {self._error}") from self._error

    def _run(self, waypoint: Waypoint, state: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            self._write(waypoint, state)
        except BaseException as error:  # the next step raises it: nothing is lost in a thread
            log.error("saving step %d failed: %s", waypoint.step, error)
            self._error = error
            return
        self.save_seconds.append(time.monotonic() - began)
        if self._rank == 0:
            stall = 1000 * self.stall_seconds[-1]
            log.info("saved step=%d in %.2f s; training waited %.1f ms", waypoint.step, self.save_seconds[-1], stall)

    def _write(self, waypoint: Waypoint, state: dict[str, Any]) -> None:
        """Every rank's part, then the seal of rank 0, whose outcome every rank is told."""
        final = waypoints.waypoint_path(self._assignment.destination, waypoint.step)
        partial = partial_path(final, token=self._assignment.token)
        save_state(partial, state, group=self._group)
        hashed: list[dict[str, Any]] = [{} for _ in range(waypoint.ranks)]
        dist.all_gather_object(hashed, hashed_part(partial, rank=self._rank), group=self._group)
        outcome: list[str | None] = [None]
        if self._rank == 0:
            merged = {name: entry for part in hashed for name, entry in part.items()}
            outcome = [_message_of(lambda: self._seal(waypoint, partial, final, merged))]
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        if outcome[0] is not None:
            raise SaveFailedError(outcome[0])

    def _seal(self, waypoint: Waypoint, partial: Path, final: Path, hashed: dict[str, dict[str, Any]]) -> None:
        lock, token = self._assignment.lock, self._assignment.token
        documents = {waypoints.DOCUMENT: waypoints.to_json(waypoint), document.DOCUMENT: self._plan.to_json()}
        seal(partial, final, documents=documents, hashed=hashed, may_publish=lambda: check_token(lock, token=token))
        waypoints.retain(self._assignment.destination)


def _message_of(action: Callable[[], None]) -> str | None:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
