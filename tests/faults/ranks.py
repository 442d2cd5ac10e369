"""Ranks that save at fixed steps and meet a fault at a chosen moment: what `run_ranks` starts in place of
`trainer.worker:main`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from infra.settings import torchrun_rank
from tests.faults.clock import shift
from trainer import loop, saver, sealing, waypoints, worker
from trainer.assignment import Assignment, read_assignment
from trainer.heartbeat import Phase, beat
from trainer.saver import WaypointSaver

KILLED, LEARNT, REACHED, GO = "killed", "learnt", "reached", "go"
"""Files in the job's directory: the time of the kill, of the first step learnt; a rank waits, and may go on."""
_PATIENCE_SECONDS = 300
_LAST_OF = {"storing": "hashed_part", "publishing": "check_token"}
"""What of `trainer.sealing` is called when the day's tensors are written, and when it is complete."""


def main(assignment_path: str, every: str, moment: str, step: str, rank: str, skew: str) -> None:
    """Train as told, but save after every `every` steps, and meet the fault on `rank`: killed while `learning` batch
    `step`, while `writing` or `sealing` the waypoint of a step, while `storing` or `publishing` the day; `stopped` at
    a step; `waiting` there, or `held` before the day is published. Before `learning` and `waiting`, what was to be
    saved is sealed. `never`: nothing happens. skew: seconds that the clock is off."""
    assignment, directory = read_assignment(Path(assignment_path)), Path(assignment_path).parent
    if float(skew):
        shift(float(skew))
    ours = torchrun_rank()[0] == int(rank)
    save_every(int(every), first=_step_of_newest(assignment))
    watch(assignment, directory, moment=moment if ours else "never", at=int(step), every=int(every))
    if moment == "writing" and ours:
        die_in("hashed_part", int(step), directory)
    elif moment == "sealing" and torchrun_rank()[0] == 0:
        die_in("check_token", int(step), directory)
    elif (moment == "storing" and ours) or (moment == "publishing" and torchrun_rank()[0] == 0):
        setattr(sealing, _LAST_OF[moment], lambda *arguments, **named: die(directory))
    elif moment == "held" and torchrun_rank()[0] == 0:
        hold(directory)
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


def watch(assignment: Assignment, directory: Path, *, moment: str, at: int, every: int) -> None:
    """Between two steps: note the first that is learnt, and meet the fault at batch `at`."""
    first = _step_of_newest(assignment)

    def watched_beat(phase: Phase, step: int = 0) -> None:
        beat(phase, step)
        if phase is not Phase.LEARNING:
            return
        if step == first + 1:
            (directory / LEARNT).touch()
        if step == at and moment in ("learning", "waiting"):
            _until(lambda: _step_of_newest(assignment) >= at // every * every)
        if step == at and moment == "learning":
            die(directory)
        if step == at and moment == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if step == at and moment == "waiting":
            (directory / REACHED).touch()
            _until((directory / GO).exists)

    loop.beat = watched_beat


def hold(directory: Path) -> None:
    """Rank 0 is about to publish, and waits."""
    check = sealing.check_token

    def held(*arguments: Any, **named: Any) -> None:
        (directory / REACHED).touch()
        _until((directory / GO).exists)
        check(*arguments, **named)

    sealing.check_token = held


def _until(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def die_in(function: str, step: int, directory: Path) -> None:
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
            die(directory)
        return original(*arguments, **named)

    WaypointSaver._write = watched  # type: ignore[method-assign]
    setattr(saver, function, deadly)


def die(directory: Path) -> NoReturn:
    """At once, and leave the time of it."""
    (directory / KILLED).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
