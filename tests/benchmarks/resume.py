"""From the SIGKILL of a rank to the next step that is learnt (`usermodel trainer train` again), of the time until a
first step.

A day is trained at two ranks that save every second; once it is half learnt and a waypoint is sealed, a rank is killed
and the same command is given again. The limit is what no resume can save: the time from the command to the first step
of a day that starts cold, on the same machine in the same run (start of Python and torch, plan, model, process
group). The ratio is that over the time from the kill; what is above it is the end of the killed job, the verified
load and the way to the batch. `lost_steps`: learnt before the kill, and learnt again.
"""

from __future__ import annotations

import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from os import kill
from pathlib import Path

from features.lake import Lake
from infra.settings import REPOSITORY, Settings
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.trainer.planted import DAY, commit_day
from trainer import waypoints

GOAL = 0.5
CHECKPOINT_SECONDS = 1
_POLL_SECONDS = 0.002
_QUICK_ROWS = 100_000
_LEARNING = 5
"""`Phase.LEARNING`, as a heartbeat says it."""

TRAIN = """
import logging, sys
from pathlib import Path
from infra.settings import Settings
from tests.trainer.planted import DAY, planted_recipe
from trainer.job import train
logging.basicConfig(level="INFO")
train(planted_recipe(), DAY, settings=Settings(
    home=Path(sys.argv[1]), ranks=2, checkpoint_seconds=float(sys.argv[2]), _env_file=None))
"""


def start(home: Path) -> subprocess.Popen[bytes]:
    """`train`, in a process of its own, its lines in `<home>/job.log`."""
    with (home / "job.log").open("wb") as log:
        command = [sys.executable, "-c", TRAIN, str(home), str(CHECKPOINT_SECONDS)]
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=log)


def steps(home: Path, job: subprocess.Popen[bytes]) -> Iterator[int]:
    """The batch that rank 0 of the newest job learns, as it changes."""
    from trainer.heartbeat import Post, read_sign

    known = set((home / "logs" / "training").glob("*"))
    last = -1
    while job.poll() is None:
        new = set((home / "logs" / "training").glob("*")) - known
        for directory in new:
            sign = read_sign(Post(directory=directory, rank=0, world_size=2, deadline_seconds=60), 0)
            if sign is not None and sign.phase == _LEARNING and sign.step != last:
                last = sign.step
                yield last
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"training ended too early: {(home / 'job.log').read_text()[-2000:]}")


def rank_of(home: Path) -> int:
    """The pid of one of the job's ranks: an agent that is the child of another."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(home).encode() in command and b"trainer.agent" in command:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return max(pid for pid, parent in parents.items() if parent in parents)


def newest(home: Path) -> int:
    """The step of the newest waypoint; 0 when there is none."""
    found = [path for path in (home / "checkpoints").glob("*/.within-*/step=*") if (path / "manifest.json").exists()]
    return max((waypoints.read_waypoint(path).step for path in found), default=0)


def measure(home: Path) -> dict[str, float]:
    """One killed and resumed day of the lake under `home`."""
    began = time.monotonic()
    job = start(home)
    first = killed_at = 0
    cold = 0.0
    for step in steps(home, job):
        cold = cold or time.monotonic() - began
        if step > 100 and (saved := newest(home)):
            killed_at, first = step, saved
            break
    killed = time.monotonic()
    kill(rank_of(home), signal.SIGKILL)
    job.wait()
    ended = time.monotonic()
    job = start(home)
    learnt = iter(steps(home, job))
    resumed_at = next(learnt)
    next(learnt)  # the step before this one is learnt
    seconds = time.monotonic() - killed
    job.send_signal(signal.SIGTERM)
    job.wait()
    found = re.search(r"resumed at step=(\d+)", (home / "job.log").read_text())
    if found is None or resumed_at < first:
        raise RuntimeError(f"the day started over at {resumed_at}; its waypoint was {first}")
    return {
        "cold_seconds": cold,
        "end_seconds": ended - killed,
        "resume_seconds": seconds,
        "lost_steps": killed_at - int(found.group(1)),
        "ratio": cold / seconds,
    }


def main() -> None:
    """Print a line per run, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=400_000, help="examples of the day")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    options.home.mkdir(parents=True, exist_ok=True)
    results = []
    with machine() as seen:
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory(dir=options.home) as home:
                rows = _QUICK_ROWS if options.quick else parsed.rows
                commit_day(Lake(Settings(home=Path(home), _env_file=None).lake), DAY, num_rows=rows)
                results.append(measure(Path(home)))
            show({name: round(value, 3) for name, value in results[-1].items()})
    summary = {name: round(statistics.median(run[name] for run in results), 3) for name in results[0]}
    ratio = summary.pop("ratio")
    finish("resume", options=options, unit="s", **summary, machine=seen, goal=GOAL, ratio=ratio)


if __name__ == "__main__":
    main()
