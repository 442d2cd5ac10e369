"""A Slurm cluster that scenarios share and leave whole, and a day that a job of it learns."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.processes import is_alive, with_environment
from infra.settings import Settings
from infra.slurm import engine
from infra.slurm.configuration import Cluster
from infra.slurm.programs import NoSlurmError
from infra.supervision import Supervisor
from tests.faults.attempts import Fault, marks, start, wait_for
from tests.faults.ranks import GO, REACHED
from tests.faults.scenario import SkippedError, Trial
from tests.infra.ports import free_row

NODES = 2
PATIENCE_SECONDS = 600
"""What hangs longer fails; a job of two nodes starts in 20 s on two quiet cores."""


@dataclass(frozen=True, kw_only=True)
class SlurmCluster:
    """A running one."""

    settings: Settings
    files: Cluster

    def ask(self, client: str, *arguments: str) -> str:
        """What a client of Slurm prints."""
        command = [str(self.files.programs_folder / client), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def jobs(self, *, states: str = "all") -> list[str]:
        """The numbers of jobs that it remembers, in the order of their submission."""
        return sorted(set(self.ask("squeue", "--noheader", f"--states={states}", "--format=%i").split()), key=_number)

    def whole(self) -> None:
        """Start what a scenario ended."""
        engine.up(self.settings, num_nodes=NODES, say=lambda line: None)

    def pid(self, daemon: str) -> int:
        """Of `slurmctld`, or of a node's `slurmd-node1`."""
        return int((self.files.folder / f"{daemon}.pid").read_text())

    def kill(self, daemon: str) -> None:
        """SIGKILL; supervisord starts another."""
        pid = self.pid(daemon)
        os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not is_alive(pid), seconds=10)

    def kill_node(self, name: str) -> None:
        """All that runs on it, at once; its slurmd stays away."""
        tasks = with_environment(f"SLURMD_NODENAME={name}") & with_environment(self.files.mark)
        steps = {parent for parent in map(_parent, tasks) if parent not in tasks and parent > 1}
        for pid in (self.pid(f"slurmd-{name}"), *steps, *tasks):
            os.kill(pid, signal.SIGKILL)
        Supervisor(self.files.settings).stop([name])

    def wait_until_saved(self) -> None:
        """The controller writes down what it knows every five seconds; what is younger, a killed one forgets."""
        now, saved = time.time(), self.files.folder / "state" / "job_state"
        self.ask("scontrol", "update", f"JobId={whole_job(self.jobs()[-1])}", "Nice=0")
        assert wait_for(lambda: saved.exists() and saved.stat().st_mtime > now, seconds=30)


@contextmanager
def cluster(home: Path) -> Iterator[SlurmCluster]:
    """Started for the block. SkippedError where there is no Slurm."""
    home.mkdir(parents=True)
    settings = Settings(home=home, slurm_port=free_row(1 + NODES), _env_file=None)
    try:
        engine.up(settings, num_nodes=NODES, say=lambda line: None)
    except NoSlurmError as error:
        raise SkippedError(str(error)) from error
    try:
        yield SlurmCluster(settings=settings, files=Cluster(settings, num_nodes=NODES))
    finally:
        engine.down(settings, say=lambda line: None)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """A day that is being learnt, its rank 1 waiting at a step."""

    home: Path
    job: str
    launcher: subprocess.Popen[bytes]
    directory: Path
    log: Path

    def go(self) -> None:
        """Let the rank go on."""
        (self.directory / GO).touch()

    def ended(self, *, seconds: float = PATIENCE_SECONDS) -> str:
        """What the launcher said, once it has ended."""
        self.launcher.wait(timeout=seconds)
        return self.log.read_text()


def fresh(trial: Trial, slurm: SlurmCluster) -> Path:
    """A home with the planted day to be trained, whose Slurm is this one."""
    home = trial.world.fresh(trial.folder / "home")
    (home / "slurm").symlink_to(slurm.files.folder)
    return home


@contextmanager
def learning(trial: Trial, slurm: SlurmCluster, *, step: int) -> Iterator[Learning]:
    """The planted day on two nodes, up to the step. What is left of it at the end is killed."""
    home, log = fresh(trial, slurm), trial.folder / "log"
    before = set(slurm.jobs())
    launcher = start(home, Fault(moment="waiting", step=step), log=log, slurm=True)
    try:
        reached = wait_for(lambda: marks(home, REACHED) or launcher.poll() is not None, seconds=PATIENCE_SECONDS)
        assert reached, f"the job hangs before step {step}: {log.read_text()[-500:]}"
        assert launcher.poll() is None, f"the job did not reach step {step}: {log.read_text()[-500:]}"
        (job, *_) = [one for one in slurm.jobs() if one not in before]
        yield Learning(
            home=home, job=whole_job(job), launcher=launcher, directory=marks(home, REACHED)[-1].parent, log=log
        )
    finally:
        launcher.kill()
        launcher.wait()
        slurm.whole()
        slurm.ask("scancel", "--partition=all")
        assert wait_for(lambda: not slurm.jobs(states="PENDING,RUNNING,COMPLETING"), seconds=60)


def whole_job(part: str) -> str:
    """`12` of `12+1`, the second part of a heterogeneous job."""
    return part.partition("+")[0]


def _number(job: str) -> tuple[int, ...]:
    """Of `12`, or of the second part of a heterogeneous job, `12+1`."""
    return tuple(map(int, job.split("+")))


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
