"""Faults of a training job's processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from features.lake import Lake
from tests.faults.attempts import (
    EVERY,
    Fault,
    attempt,
    failure,
    lines_of,
    marks,
    processes_of,
    ranks_of,
    settings_of,
    start,
    steps_saved,
    wait_for,
)
from tests.faults.ranks import GO, KILLED, LEARNT, REACHED
from tests.faults.scenario import Outcome, Trial, error_of
from tests.faults.world import KILLED_AT, NUM_ROWS, NUM_STEPS
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.failure import cause
from trainer.job import train
from trainer.locks import LockedError
from trainer.trained import TrainedDay, trained_days

_SEALED_BY_THEN = [EVERY, 2 * EVERY]
_DEADLINE_SECONDS = 10
_EXTREMES = (float("nan"), float("inf"), float("-inf"), 1e38)
"""The last is a number, and the loss that it gives is none."""


def rank_killed(trial: Trial) -> Outcome:
    """A rank killed at any step: the day goes on from the newest waypoint and ends as if undisturbed, to the bit."""
    draw, home = trial.draw(), trial.world.fresh(trial.folder / "home")
    step, rank = draw.randint(1, NUM_STEPS - 1), draw.randrange(2)
    message = failure(settings_of(home), Fault(moment="learning", step=step, rank=rank))
    assert "a rank was killed: Signal 9 (SIGKILL)" in message, message
    assert trained_days(settings_of(home), "tiny") == []
    trained, first = resume(home)
    trial.world.require_same(trained)
    redone = step - first
    assert 0 <= redone <= EVERY, f"killed at {step}, went on at {first}: more than an interval of {EVERY} is redone"
    (killed,), learnt = marks(home, KILLED), marks(home, LEARNT)[-1]
    seconds = learnt.stat().st_mtime - killed.stat().st_mtime
    return Outcome(injected=1, lost=f"{redone} of {NUM_STEPS} steps redone, {seconds:.1f} s to the next step")


def resume(home: Path) -> tuple[TrainedDay, int]:
    """The day, and the step at which this attempt began."""
    with lines_of("trainer.launch") as lines:
        trained = attempt(settings_of(home))
    steps = [int(line.partition("resumed at step=")[2].split()[0]) for line in lines if "resumed at step=" in line]
    assert trained.resumed == (1 if steps else 0)
    return trained, steps[0] if steps else 0


def launcher_killed(trial: Trial) -> Outcome:
    """The launcher killed: its ranks die with it; frozen ones that outlive it publish nothing."""
    draw, home = trial.draw(), trial.world.fresh(trial.folder / "home")
    step = draw.randint(2, NUM_STEPS - 2)
    with waiting_job(home, step=step, log=trial.folder / "log") as (launcher, directory):
        launcher.kill()
        launcher.wait()
        assert wait_for(lambda: not processes_of(home), seconds=30), f"orphans live on: {processes_of(home)}"
        (directory / GO).touch()
    with waiting_job(home, step=NUM_STEPS - 1, log=trial.folder / "log") as (launcher, directory):
        frozen = processes_of(home)
        with stopped(list(frozen)):
            launcher.kill()
            launcher.wait()
            trained = attempt(settings_of(home))
            assert set(frozen) <= set(processes_of(home)), "the frozen ranks were to outlive their launcher"
            (directory / GO).touch()
        assert wait_for(lambda: not processes_of(home), seconds=60), f"orphans live on: {processes_of(home)}"
    trial.world.require_same(trained)
    assert trained_days(settings_of(home), "tiny") == [trained]
    return Outcome(injected=2, lost="the killed attempts' steps since their last waypoint")


@contextmanager
def waiting_job(home: Path, *, step: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A launcher whose rank 1 waits at a step, and the job's directory. Whatever is left at the end is killed."""
    before = len(marks(home, REACHED))
    launcher = start(home, Fault(moment="waiting", step=step), log=log)
    try:
        reached = wait_for(lambda: len(marks(home, REACHED)) > before or launcher.poll() is not None)
        assert reached, f"the job hangs before step {step}"
        assert launcher.poll() is None, f"the job did not reach step {step}: {log.read_text()[-500:]}"
        assert len(ranks_of(home)) == 2
        yield launcher, marks(home, REACHED)[-1].parent
    finally:
        launcher.kill()
        launcher.wait()
        for pid in processes_of(home):
            end(pid, signal.SIGKILL)


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Frozen for the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            end(pid, signal.SIGCONT)


def end(pid: int, signal_: signal.Signals) -> None:
    """Unless it is gone."""
    try:
        os.kill(pid, signal_)
    except ProcessLookupError:
        return


def save_killed(trial: Trial) -> Outcome:
    """Killed before a checkpoint's completion marker: the one before is gone on from, the partial one removed."""
    draw, home = trial.draw(), trial.world.killed(trial.folder / "home")
    moment = draw.choice(["writing", "sealing", "publishing"])
    step = draw.randrange(3, NUM_STEPS // EVERY + 1) * EVERY
    message = failure(settings_of(home), Fault(moment=moment, step=step, rank=draw.randrange(2)))
    assert "a rank was killed: Signal 9 (SIGKILL)" in message, message
    saved = steps_saved(home)
    newest = NUM_STEPS // EVERY * EVERY if moment == "publishing" else step - EVERY
    assert saved == [newest - EVERY, newest], f"killed {moment} step {step}, sealed are {saved}"
    partial = [path.name for path in (home / "checkpoints" / "tiny").rglob(".partial-*")]
    assert partial, f"nothing half-written was left by a kill when {moment}"
    with lines_of("trainer.launch") as lines:
        trained = attempt(settings_of(home))
    assert any(f"resumed at step={newest} of" in line for line in lines), f"did not go on at {newest}"
    assert trained.resumed == 2
    trial.world.require_same(trained)
    return Outcome(injected=1, lost=f"killed {moment} step {step}: gone on at {newest}")


def rank_stopped(trial: Trial) -> Outcome:
    """A rank stopped (SIGSTOP): the deadline names it, nothing is left running, and the day goes on to the same end."""
    draw, home = trial.draw(), trial.world.killed(trial.folder / "home")
    step, rank = draw.randint(KILLED_AT, NUM_STEPS - 1), draw.randrange(2)
    settings = settings_of(home, deadline_seconds=_DEADLINE_SECONDS)
    message = failure(settings, Fault(moment="stopped", step=step, rank=rank))
    for part in (
        f"rank {1 - rank}: ",
        f"it waited for rank {rank} (last seen learning batch {step}",
        "its process has not run for ",
        f"USERMODEL_DEADLINE_SECONDS (now {_DEADLINE_SECONDS})",
    ):
        assert part in message, f"{part!r} is not in {message!r}"
    assert wait_for(lambda: not processes_of(home), seconds=20), f"left running: {processes_of(home)}"
    assert trained_days(settings, "tiny") == []
    newest = steps_saved(home)[-1]
    assert newest >= _SEALED_BY_THEN[-1]
    trained = attempt(settings_of(home))
    trial.world.require_same(trained)
    return Outcome(injected=1, lost=f"{step - newest} of {NUM_STEPS} steps redone, {_DEADLINE_SECONDS} s of deadline")


def poisoned_batch(trial: Trial) -> Outcome:
    """A value that makes a loss NaN or infinite: every rank stops before it learns, batch and column named."""
    draw, broken = trial.draw(), []
    poisons = draw.sample(_EXTREMES, k=trial.times(2, len(_EXTREMES)))
    for number, poison in enumerate(poisons):
        home, column = trial.folder / str(number), draw.choice(["activity", "hour"])
        values = [0.5] * NUM_ROWS
        values[draw.randrange(NUM_ROWS)] = poison
        commit_day(Lake(settings_of(home).lake), DAY, num_rows=NUM_ROWS, **{column: pa.array(values, pa.float32())})
        message = failure(settings_of(home, deadline_seconds=60), Fault(every=1))
        named = f"column {column}" in message and "batch " in message
        failures = list((home / "logs/training").glob("*/error-*.json"))
        told = cause(failures[0].parent) if failures else None
        batch = int(message.partition("batch ")[2].split(":")[0].split()[0]) if named else -1
        newest = max(steps_saved(home), default=0)
        if not named or told is None or newest > batch or trained_days(settings_of(home), "tiny"):
            broken.append(f"{poison} in {column}: newest waypoint {newest}, {len(failures)} ranks stopped: {message}")
    return Outcome(injected=len(poisons), broken=tuple(broken), lost="the attempt")


def trained_twice(trial: Trial) -> Outcome:
    """The same day trained by two at once, then again: one version; the second says who holds it and writes nothing."""
    home = trial.world.fresh(trial.folder / "home")
    step = trial.draw().randint(1, NUM_STEPS - 2)
    with waiting_job(home, step=step, log=trial.folder / "log") as (first, directory):
        message = error_of(lambda: train(planted_recipe(), DAY, settings=settings_of(home)), LockedError)
        assert f"is held by pid {first.pid} on " in message, message
        (directory / GO).touch()
        assert first.wait(timeout=120) == 0, (trial.folder / "log").read_text()[-500:]
    again = train(planted_recipe(), DAY, settings=settings_of(home))
    assert trained_days(settings_of(home), "tiny") == [again]
    trial.world.require_same(again)
    return Outcome(injected=2)
