"""Faults of a day that Slurm runs on two nodes: of its job, of its nodes, of the controller, of who waits for it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time

from tests.faults.attempts import EVERY, Fault, attempt, failure, settings_of, start, steps_saved
from tests.faults.cluster import PATIENCE_SECONDS, Learning, fresh, learning
from tests.faults.scenario import Outcome, Trial
from tests.faults.world import NUM_STEPS
from trainer.trained import trained_days

_NODE_SECONDS = 120
"""Four times what Slurm waits for a node (SlurmdTimeout), and the time to begin again."""


def launcher_killed(trial: Trial) -> Outcome:
    """Who waits for a Slurm job is killed: the job learns on, a retry waits for the same one, one version is made."""
    slurm = trial.world.slurm
    with learning(trial, slurm, step=trial.draw().randint(2, NUM_STEPS - 2)) as day:
        jobs = slurm.jobs()
        day.launcher.kill()
        day.launcher.wait()
        retry = start(day.home, Fault(), log=day.log, slurm=True)
        try:
            time.sleep(1)
            day.go()
            assert retry.wait(timeout=PATIENCE_SECONDS) == 0, day.log.read_text()[-500:]
        finally:
            retry.kill()
            retry.wait()
        assert slurm.jobs() == jobs, f"the retry submitted another job: {jobs} became {slurm.jobs()}"
        require_one_version(trial, day)
    return Outcome(injected=1)


def daemons_killed(trial: Trial) -> Outcome:
    """Slurm's controller and a node's slurmd are killed while a job runs: the job and who waits for it go on."""
    slurm = trial.world.slurm
    with learning(trial, slurm, step=trial.draw().randint(2, NUM_STEPS - 2)) as day:
        slurm.wait_until_saved()
        began = time.monotonic()
        slurm.kill("slurmctld")
        slurm.kill(f"slurmd-node{trial.draw().randint(1, 2)}")
        slurm.whole()
        seconds = time.monotonic() - began
        day.go()
        told = day.ended()
        assert day.launcher.returncode == 0, told[-500:]
        require_one_version(trial, day)
    return Outcome(injected=2, lost=f"nothing; {seconds:.1f} s until Slurm answers again")


def job_cancelled(trial: Trial) -> Outcome:
    """Somebody cancels the Slurm job: the day fails and says so; the next attempt goes on to the same end."""
    slurm, step = trial.world.slurm, trial.draw().randint(2 * EVERY, NUM_STEPS - 2)
    with learning(trial, slurm, step=step) as day:
        slurm.ask("scancel", day.job)
        began = time.monotonic()
        told = day.ended()
        seconds = time.monotonic() - began
        assert day.launcher.returncode != 0
        assert "CANCELLED" in told, told[-500:]
        assert trained_days(settings_of(day.home), "tiny") == []
        first = gone_on(trial, day)
    return Outcome(injected=1, lost=f"{step - first} of {NUM_STEPS} steps redone; told {seconds:.1f} s later")


def rank_killed(trial: Trial) -> Outcome:
    """A rank of a Slurm job is killed: the reason is told, no node waits for ever, the next attempt ends the same."""
    slurm, draw = trial.world.slurm, trial.draw()
    step, home = draw.randint(1, NUM_STEPS - 1), fresh(trial, trial.world.slurm)
    began = time.monotonic()
    message = failure(settings_of(home, slurm=True), Fault(moment="learning", step=step, rank=draw.randrange(2)))
    seconds = time.monotonic() - began
    assert re.search(r"SIGKILL|lost another rank", message), message
    assert trained_days(settings_of(home), "tiny") == []
    trained = attempt(settings_of(home, slurm=True))
    trial.world.require_same(trained)
    assert not slurm.jobs(states="PENDING,RUNNING")
    return Outcome(injected=1, lost=f"{step % EVERY} of {NUM_STEPS} steps redone; the attempt took {seconds:.0f} s")


def node_lost(trial: Trial) -> Outcome:
    """A node dies with all that runs on it: nobody waits for ever, and the day ends the same once it is back."""
    slurm, step = trial.world.slurm, trial.draw().randint(2 * EVERY, NUM_STEPS - 2)
    with learning(trial, slurm, step=step) as day:
        began = time.monotonic()
        slurm.kill_node("node2")
        day.go()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Slurm may queue the job again, until the node is back
            day.launcher.wait(timeout=_NODE_SECONDS)
        seconds = time.monotonic() - began
        slurm.whole()
        if day.launcher.wait(timeout=PATIENCE_SECONDS) == 0:
            require_one_version(trial, day)
            return Outcome(injected=1, lost=f"queued again by Slurm; {step % EVERY} of {NUM_STEPS} steps redone")
        first = gone_on(trial, day)
    return Outcome(injected=1, lost=f"{step - first} of {NUM_STEPS} steps redone; told {seconds:.1f} s later")


def out_of_time(trial: Trial) -> Outcome:
    """A Slurm job outlasts its time limit: the day fails with TIMEOUT, and the next attempt goes on to the same end."""
    slurm, step = trial.world.slurm, trial.draw().randint(2 * EVERY, NUM_STEPS - 2)
    with learning(trial, slurm, step=step) as day:
        slurm.ask("scontrol", "update", f"JobId={day.job}", "TimeLimit=0:01")
        began = time.monotonic()
        told = day.ended()
        seconds = time.monotonic() - began
        assert day.launcher.returncode != 0
        assert "TIMEOUT" in told, told[-500:]
        first = gone_on(trial, day)
    return Outcome(injected=1, lost=f"{step - first} of {NUM_STEPS} steps redone; told {seconds:.0f} s later")


def gone_on(trial: Trial, day: Learning) -> int:
    """The step at which the next attempt, a Slurm job too, went on to the undisturbed end."""
    first = steps_saved(day.home)[-1]
    trained = attempt(settings_of(day.home, slurm=True))
    trial.world.require_same(trained)
    assert trained.resumed == 1, f"resumed {trained.resumed} times"
    return first


def require_one_version(trial: Trial, day: Learning) -> None:
    """The undisturbed one."""
    (trained,) = trained_days(settings_of(day.home), "tiny")
    trial.world.require_same(trained)
    said = re.findall(r"trained model=tiny .* task=click", day.log.read_text())
    assert len(said) <= 1, f"{len(said)} attempts say that they trained it"
