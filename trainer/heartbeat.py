"""What each rank is doing and when it was last heard of, so that a rank that waits too long can say for whom.

A rank leaves one file of 24 bytes in the job's directory and overwrites it: when it entered its phase, the
phase and the step (by the thread that trains, microseconds), and that the process runs at all (by a thread of
its own, at most once per second). That thread is also the deadline within the pass: a step or a batch that
takes longer ends the rank, whatever the backend of the collectives does. Outside the pass, where there is no
telling how long things take, a rank ends when a host of the job does not answer any more.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from trainer.reach import Answer, Place, ask_all

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
    places: tuple[Place, ...] = ()
    """Of every rank, where the job has several hosts."""
    lost_seconds: int = 0
    """A host of several that is silent for so long is lost: the kernel ends its connections."""

    def name(self, rank: int) -> str:
        """`rank 3`, and where it is."""
        return f"rank {rank} on {self.places[rank]}" if self.places else f"rank {rank}"


class Heartbeat:
    """One rank's. `expired` is called once, in a thread, when a watched phase outlasts the deadline, or any
    other does while a host of the job does not answer."""

    def __init__(self, post: Post, *, expired: Callable[[Phase], None]) -> None:
        self._post = post
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

    def meet(self, places: Sequence[Place], *, lost_seconds: int = 0) -> Post:
        """From here on it is known where the others are, and when they are lost; this rank's post, with that."""
        self._post = replace(self._post, places=tuple(places), lost_seconds=lost_seconds)
        return self._post

    def stop(self) -> None:
        """No deadline from here on."""
        self._stopped.set()

    def _tick(self) -> None:
        os.pwrite(self._descriptor, _ALIVE.pack(time.time()), _BEAT.size)

    def _watch(self) -> None:
        deadline = self._post.deadline_seconds
        interval = min(_TICK_SECONDS, deadline / _TICKS_PER_DEADLINE)
        woken = asked = last = time.monotonic()
        while not self._stopped.wait(interval):
            self._tick()
            now = time.monotonic()
            if now - last > _SILENT_SHARE * deadline:
                woken = now  # it is this process that did not run: the others are not to blame for the time
            last = now
            phase, entered = self._entered
            if now - max(entered, woken) <= deadline:
                continue
            if phase not in _WATCHED:
                if now - asked <= deadline:
                    continue
                asked = now
                if Answer.SILENT not in look_around(self._post).values():
                    continue
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


def look_around(post: Post) -> dict[int, Answer]:
    """What the ranks on other hosts answer; none in a job of one host. Takes seconds where one is silent."""
    if not post.places:
        return {}
    here = post.places[post.rank].host
    others = [rank for rank, place in enumerate(post.places) if place.host != here]
    return dict(zip(others, ask_all(post.places[rank] for rank in others), strict=True))


def is_alone(post: Post, answers: Mapping[int, Answer]) -> bool:
    """Whether none of two or more other hosts answers: it is this one that is cut off."""
    hosts = {post.places[rank].host for rank in answers}
    return len(hosts) > 1 and set(answers.values()) == {Answer.SILENT}


def explain_wait(post: Post, answers: Mapping[int, Answer]) -> str:
    """For which ranks this one waits, where each was last seen and how long ago, as a clause.

    answers: of `look_around`. Hosts that do not answer; else processes that are gone; else ranks whose process does
    not run; else those furthest behind; else, where none is behind, all others.
    """
    now = time.time()
    if (clause := _unreachable(post, answers)) is not None:
        return clause
    others = {rank: read_sign(post, rank) for rank in range(post.world_size) if rank != post.rank}
    silent_seconds = _SILENT_SHARE * post.deadline_seconds
    silent = [rank for rank, sign in others.items() if sign is None or now - sign.alive > silent_seconds]
    if silent:
        return "it waited for " + "; ".join(_describe(post, rank, others[rank], now, runs=False) for rank in silent)
    seen = {rank: sign for rank, sign in others.items() if sign is not None}
    own = read_sign(post, post.rank)
    least = min(sign.progress for sign in seen.values())
    if own is not None and own.progress <= least:
        clause = "no rank is behind it (look at the network between them): "
        return clause + "; ".join(_describe(post, rank, sign, now, runs=True) for rank, sign in seen.items())
    behind = {rank: sign for rank, sign in seen.items() if sign.progress == least}
    return "it waited for " + "; ".join(_describe(post, rank, sign, now, runs=True) for rank, sign in behind.items())


def _unreachable(post: Post, answers: Mapping[int, Answer]) -> str | None:
    """Who is silent, or gone, as a clause; None where everybody answers."""
    silent = [post.name(rank) for rank, answer in answers.items() if answer is Answer.SILENT]
    if not silent:
        gone = [post.name(rank) for rank, answer in answers.items() if answer is Answer.GONE]
        return f"it waited for {'; '.join(gone)}, whose process is gone" if gone else None
    here = post.places[post.rank]
    if len(silent) < len(answers):
        verb = "do" if len(silent) > 1 else "does"
        return f"it waited for {'; '.join(silent)}, which {verb} not answer {here} over the network; others do"
    return f"no other host answers {here}, so it is cut off, or they are: {'; '.join(silent)}"


def _describe(post: Post, rank: int, sign: Sign | None, now: float, *, runs: bool) -> str:
    name = post.name(rank)
    if sign is None:
        return f"{name} (it never started)"
    where = f"last seen {sign.phase.describe(sign.step)}, {now - sign.since:.1f} s ago"
    if runs:
        return f"{name} ({where})"
    return f"{name} ({where}; its process has not run for {now - sign.alive:.1f} s: stopped, swapped out or gone)"


def _path(directory: Path, rank: int) -> Path:
    return directory / f"heartbeat-{rank}"
