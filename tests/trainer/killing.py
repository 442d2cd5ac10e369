"""Ranks that save at fixed steps and are killed at a chosen moment: what `run_ranks` starts in place of
`trainer.worker:main`."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from infra.settings import torchrun_rank
from trainer import loop, saver, sealing, waypoints, worker
from trainer.assignment import Assignment, read_assignment
from trainer.heartbeat import Phase, beat
from trainer.saver import WaypointSaver

_PATIENCE_SECONDS = 30


def main(assignment_path: str, every: str, moment: str, step: str) -> None:
    """Train as told, but save after every `every` steps, and die at a moment: `learning` a batch once what was to be
    saved before is sealed; `writing` or `sealing` the waypoint of a step; `storing` or `publishing` the day. `full`:
    the first finds no room on rank 0's disk. `never`."""
    assignment = read_assignment(Path(assignment_path))
    save_every(int(every), first=_step_of_newest(assignment))
    if moment == "learning":
        die_learning(assignment, int(step), newest=int(step) // int(every) * int(every))
    elif moment == "writing" and torchrun_rank()[0] == 1:
        die_in("hashed_part", int(step))
    elif moment == "sealing" and torchrun_rank()[0] == 0:
        die_in("check_token", int(step))
    elif (moment == "storing" and torchrun_rank()[0] == 1) or (moment == "publishing" and torchrun_rank()[0] == 0):
        setattr(sealing, "hashed_part" if moment == "storing" else "check_token", die)
    elif moment == "full":
        run_full()
    worker.main(assignment_path)


def _step_of_newest(assignment: Assignment) -> int:
    found = waypoints.sealed(assignment.destination)
    return waypoints.read_waypoint(found[0]).step if found else 0


def save_every(steps: int, *, first: int) -> None:
    """Steps decide in place of the clock."""
    step = first

    def is_due(self: WaypointSaver) -> bool:
        nonlocal step
        step += 1
        return step % steps == 0

    WaypointSaver.is_due = is_due  # type: ignore[method-assign]


def die_learning(assignment: Assignment, at: int, *, newest: int) -> None:
    """Rank 1, between two steps."""

    def deadly_beat(phase: Phase, step: int = 0) -> None:
        beat(phase, step)
        if phase is Phase.LEARNING and step == at and torchrun_rank()[0] == 1:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while newest and _step_of_newest(assignment) < newest and time.monotonic() < deadline:
                time.sleep(0.01)
            die()

    loop.beat = deadly_beat


def run_full() -> None:
    """The disk, when rank 0 seals."""

    def full(*arguments: object, **named: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    if torchrun_rank()[0] == 0:
        saver.seal = full


def die_in(function: str, step: int) -> None:
    """Of the saver, while it saves that step."""
    write = WaypointSaver._write
    original = getattr(saver, function)
    saving = 0

    def watched(self: WaypointSaver, waypoint: waypoints.Waypoint, state: dict[str, Any]) -> None:
        nonlocal saving
        saving = waypoint.step
        write(self, waypoint, state)

    def deadly(*arguments: object, **named: object) -> object:
        if saving == step:
            die()
        return original(*arguments, **named)

    WaypointSaver._write = watched  # type: ignore[method-assign]
    setattr(saver, function, deadly)


def die(*arguments: object, **named: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
