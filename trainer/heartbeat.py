"""What each rank is doing and when it was last heard of, so that a rank that waits too long can say for whom.

A rank leaves one file of 24 bytes in the job's directory and overwrites it: when it entered its phase, the
phase and the step (by the thread that trains, microseconds), and that the process runs at all (by a thread of
its own, at most once per second). That thread is also the deadline within the pass: a step or a batch that
takes longer ends the rank, whatever the backend of the collectives does.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_BEAT = struct.Struct("<dii")
"""Time (seconds since 1970), phase, step."""
_ALIVE = struct.Struct("<d")
_TICK_SECONDS = 1.0
_TICKS_PER_DEADLINE = 10
_SILENT_SHARE = 0.5
"""A process that did not tick for this share of the deadline does not run."""


class Phase(IntEnum):
    """What a rank can be at, in the order of a job."""

    CONNECTING = 0
    OPENING = 1
    BUILDING = 2
    LOADING = 3
    READING = 4
    LEARNING = 5
    SUMMING = 6
    SAVING = 7

    def describe(self, step: int) -> str:
        """For a person."""
        return _TEXTS[self].format(step=step)


_TEXTS = {
    Phase.CONNECTING: "connecting to the other ranks",
    Phase.OPENING: "opening the day's examples",
    Phase.BUILDING: "building the model",
    Phase.LOADING: "loading the checkpoint",
    Phase.READING: "reading batch {step}",
    Phase.LEARNING: "learning batch {step}",
    Phase.SUMMING: "adding up the metrics",
    Phase.SAVING: "saving the checkpoint",
}
_WATCHED = frozenset({Phase.OPENING, Phase.READING, Phase.LEARNING, Phase.SUMMING})
"""The others take as long as the model is large; there, the collectives' own timeout is the deadline."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The last sign of life of a rank; times in seconds since 1970."""

    phase: Phase
    step: int
    since: float
    """When it entered the phase."""
    alive: float
    """When its process last ran."""

    @property
    def progress(self) -> tuple[int, int, int]:
        """Orders ranks: the least is the one that the others wait for."""
        if self.phase in (Phase.READING, Phase.LEARNING):
            return (Phase.READING, self.step, self.phase)
        return (self.phase, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Post:
    """A rank's place in a job."""

    directory: Path
    """The job's: every rank sees it."""
    rank: int
    world_size: int
    deadline_seconds: float


class Heartbeat:
    """One rank's. `expired` is called once, in a thread, when a watched phase outlasts the deadline."""

    def __init__(self, post: Post, *, expired: Callable[[Phase], None]) -> None:
        self._deadline = post.deadline_seconds
        self._expired = expired
        self._descriptor = os.open(_path(post.directory, post.rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._stopped = threading.Event()
        self.beat(Phase.CONNECTING)
        self._tick()
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    def beat(self, phase: Phase, step: int = 0) -> None:
        """This rank enters a phase."""
        self._entered = (phase, time.monotonic())
        os.pwrite(self._descriptor, _BEAT.pack(time.time(), phase, step), 0)

    def stop(self) -> None:
        """No deadline from here on."""
        self._stopped.set()

    def _tick(self) -> None:
        os.pwrite(self._descriptor, _ALIVE.pack(time.time()), _BEAT.size)

    def _watch(self) -> None:
        interval = min(_TICK_SECONDS, self._deadline / _TICKS_PER_DEADLINE)
        woken = last = time.monotonic()
        while not self._stopped.wait(interval):
            self._tick()
            now = time.monotonic()
            if now - last > _SILENT_SHARE * self._deadline:
                woken = now  # it is this process that did not run: the others are not to blame for the time
            last = now
            phase, entered = self._entered
            if phase in _WATCHED and now - max(entered, woken) > self._deadline:
                self._expired(phase)
                return


_current: Heartbeat | None = None


def start(post: Post, *, expired: Callable[[Phase], None]) -> Heartbeat:
    """Begin this process's heartbeat: from here on `beat` writes it."""
    global _current
    _current = Heartbeat(post, expired=expired)
    return _current


def beat(phase: Phase, step: int = 0) -> None:
    """This rank enters a phase. Nothing happens outside a job."""
    if _current is not None:
        _current.beat(phase, step)


def read_sign(post: Post, rank: int) -> Sign | None:
    """The last sign of `rank`; None if it left none."""
    try:
        content = _path(post.directory, rank).read_bytes()
        since, phase, step = _BEAT.unpack_from(content)
        (alive,) = _ALIVE.unpack_from(content, _BEAT.size)
    except (FileNotFoundError, struct.error):
        return None
    return Sign(phase=Phase(phase), step=step, since=since, alive=alive)


def explain_wait(post: Post) -> str:
    """For which ranks this one waits, where each was last seen and how long ago, as a clause.

    Ranks whose process does not run; else those furthest behind; else, where none is behind, all others.
    """
    now = time.time()
    others = {rank: read_sign(post, rank) for rank in range(post.world_size) if rank != post.rank}
    silent_seconds = _SILENT_SHARE * post.deadline_seconds
    silent = [rank for rank, sign in others.items() if sign is None or now - sign.alive > silent_seconds]
    if silent:
        return "it waited for " + "; ".join(_describe(rank, others[rank], now, runs=False) for rank in silent)
    seen = {rank: sign for rank, sign in others.items() if sign is not None}
    own = read_sign(post, post.rank)
    least = min(sign.progress for sign in seen.values())
    if own is not None and own.progress <= least:
        clause = "no rank is behind it (look at the network between them): "
        return clause + "; ".join(_describe(rank, sign, now, runs=True) for rank, sign in seen.items())
    behind = {rank: sign for rank, sign in seen.items() if sign.progress == least}
    return "it waited for " + "; ".join(_describe(rank, sign, now, runs=True) for rank, sign in behind.items())


def _describe(rank: int, sign: Sign | None, now: float, *, runs: bool) -> str:
    if sign is None:
        return f"rank {rank} (it never started)"
    where = f"last seen {sign.phase.describe(sign.step)}, {now - sign.since:.1f} s ago"
    if runs:
        return f"rank {rank} ({where})"
    return f"rank {rank} ({where}; its process has not run for {now - sign.alive:.1f} s: stopped, swapped out or gone)"


def _path(directory: Path, rank: int) -> Path:
    return directory / f"heartbeat-{rank}"
