"""Attempts at the planted day: in this process or in one of their own, with ranks that meet a fault."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from features.examples import build_examples
from infra.settings import REPOSITORY, Settings
from tests.faults import clock
from tests.faults.scenario import error_of
from tests.features.worlds import TINY
from tests.trainer.planted import DAY, planted_recipe
from trainer import job, waypoints
from trainer.job import train
from trainer.launch.role import Work
from trainer.recipe import Recipe
from trainer.trained import TrainedDay

EVERY = 6
"""Steps between two waypoints, where a scenario does not say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the ranks meet, and how often they save: see `tests.faults.ranks`. skew_seconds: their clock is off, and
    in a process of its own the launcher's too."""

    moment: str = "never"
    step: int = 0
    rank: int = 1
    every: int = EVERY
    skew_seconds: float = 0

    @property
    def told(self) -> list[str]:
        """As `tests.faults.ranks.main` is told."""
        return [str(value) for value in (self.every, self.moment, self.step, self.rank, self.skew_seconds)]


def attempt(
    settings: Settings, fault: Fault | None = None, *, recipe: Recipe | None = None, ds: date = DAY
) -> TrainedDay:
    """`train` the planted day, or that of another recipe."""
    told = (fault or Fault()).told

    def faulty(directory: Path) -> Work:
        work = kept(directory)
        return replace(work, entry="tests.faults.ranks:main", arguments=(*work.arguments, *told))

    kept, job.work_in = job.work_in, faulty
    try:
        return train(recipe or planted_recipe(), ds, settings=settings)
    finally:
        job.work_in = kept


def failure(settings: Settings, fault: Fault, *, recipe: Recipe | None = None, ds: date = DAY) -> str:
    """The message of an attempt that fails."""
    return error_of(lambda: attempt(settings, fault, recipe=recipe, ds=ds), RuntimeError)


def settings_of(home: Path, *, ranks: int = 2, deadline_seconds: float = 120, slurm: bool = False) -> Settings:
    """Settings that know nothing of this machine. slurm: a rank on each of so many nodes of the cluster in `home`."""
    hosts: dict[str, Any] = {"ranks": ranks}
    if slurm:
        hosts = {"ranks": 1, "hosts": ranks, "scheduler": "slurm", "host_interface": "lo"}
    return Settings(
        home=home, device="cpu", deadline_seconds=deadline_seconds, checkpoint_seconds=300, _env_file=None, **hosts
    )


def start(home: Path, fault: Fault, *, log: Path, build: bool = False, slurm: bool = False) -> subprocess.Popen[bytes]:
    """The same in a process of its own, its lines in `log`. build: the tiny world's day too."""
    told = json.dumps({"home": str(home), "build": build, "fault": asdict(fault), "slurm": slurm})
    with log.open("ab") as lines:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.attempts", told], cwd=REPOSITORY, stdout=lines, stderr=lines
        )


def main(told: dict[str, object]) -> None:
    """What `start` starts."""
    logging.basicConfig(level="INFO")
    settings = settings_of(Path(str(told["home"])), slurm=bool(told["slurm"]))
    fault = Fault(**told["fault"])  # type: ignore[arg-type]
    if fault.skew_seconds:
        clock.shift(fault.skew_seconds)
    if told["build"]:
        build_examples(TINY, DAY, settings=settings, reject_max_share=0.05)
    attempt(settings, fault)


def wait_for(condition: Callable[[], object], *, seconds: float = 90) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(met)


def marks(home: Path, name: str) -> list[Path]:
    """Files of this name that ranks left, in the order of their making."""
    found = (home / "logs" / "training").glob(f"*/{name}")
    return sorted(found, key=lambda path: path.stat().st_mtime)


def steps_saved(home: Path) -> list[int]:
    """Of the day's sealed waypoints."""
    folders = list((home / "checkpoints" / "tiny").glob(".within-*"))
    found = [waypoints.sealed(path.with_name(path.name.removeprefix(".within-"))) for path in folders]
    return sorted(waypoints.read_waypoint(path).step for paths in found for path in paths)


def processes_of(home: Path) -> dict[int, int]:
    """The job's processes under `home`: pid to parent's pid. Ranks are children of the agent."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(home).encode() in command and b"trainer.agent" in command and b"setpriv\0" not in command[:16]:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def ranks_of(home: Path) -> list[int]:
    """The pids of the job's ranks."""
    processes = processes_of(home)
    return sorted(pid for pid, parent in processes.items() if parent in processes)


@contextmanager
def lines_of(logger: str) -> Iterator[list[str]]:
    """What is logged in the block."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    of, handler = logging.getLogger(logger), Keep(logging.INFO)
    level = of.level
    of.addHandler(handler)
    of.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        of.removeHandler(handler)
        of.setLevel(level)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
