"""What Airflow adds to a day: the day's chain of tasks, each of which does nothing, through one and two schedulers.

A day is a chain of nine steps, one of them mapped over two shards. Of each step on the chain: `wait`, from the end of
the step before until the scheduler queues it; `queue`, until its process begins; `start`, until the first line of our
code; `end`, from there (it does nothing) until Airflow knows of its end. The limit is the same chain as bare processes,
each forked from one that has the tasks' libraries loaded, as LocalExecutor's are, one after the other.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from infra import orchestrator, postgres, services
from infra.airflow import Airflow
from infra.settings import REPOSITORY, Settings, child_environment
from tests.benchmarks.common.idle_day import AFTER, BEFORE, DAG_FILE, MAPPED, START
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.faults.attempts import wait_for
from tests.infra.ports import on_free_ports

GOAL = 0.05
DAG = "idle_day"
STEPS = (*BEFORE, "plan_inference", MAPPED, *AFTER)
PARTS = ("wait", "queue", "start", "end")
_FORKS = """
import json, os, time, sys
import deltalake, mlflow, polars, torchrec
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os._exit(0)
    os.wait()
print(json.dumps(time.perf_counter() - began))
"""
_QUERY = """
SELECT r.run_id, extract(epoch FROM r.start_date), extract(epoch FROM r.end_date), t.task_id,
       extract(epoch FROM t.queued_dttm), extract(epoch FROM t.start_date), extract(epoch FROM t.end_date), x.value
FROM dag_run r JOIN task_instance t USING (dag_id, run_id)
LEFT JOIN xcom x ON (x.dag_id, x.run_id, x.task_id, x.map_index) = (t.dag_id, t.run_id, t.task_id, t.map_index)
  AND x.key = 'return_value'
WHERE r.dag_id = 'idle_day' AND r.state = 'success' AND r.run_type = 'backfill' ORDER BY r.run_id, t.end_date
"""


def rows(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """By run, its tasks with their times in seconds since the epoch; `first`: of our code's first line."""
    connection = postgres.connect(settings, "airflow")
    try:
        with connection.cursor() as cursor:
            cursor.execute(_QUERY)
            found: dict[str, list[dict[str, Any]]] = {}
            for run, began, ended, task, queued, start, end, value in cursor.fetchall():
                times = {"queued": queued, "start": start, "end": end, "run_began": began, "run_ended": ended}
                first = float(value) if isinstance(value, (int, float)) else None
                told = {"task": task, **{name: float(at) for name, at in times.items()}, "first": first}
                found.setdefault(run, []).append(told)
            return found
    finally:
        connection.close()


def parts_of(tasks: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of one day, all steps of the chain together; `whole` is the run's own."""
    last = {task["task"]: task for task in tasks}  # of the mapped ones, the last to end
    chain = [last[name] for name in STEPS]
    told = [task for task in chain if task["first"] is not None]
    ends = [chain[0]["run_began"], *(task["end"] for task in chain)]
    return {
        "whole": chain[0]["run_ended"] - chain[0]["run_began"],
        "wait": sum(max(task["queued"] - before, 0.0) for before, task in zip(ends[:-1], chain, strict=True)),
        "queue": sum(task["start"] - task["queued"] for task in chain),
        "start": sum(task["first"] - task["start"] for task in told) * len(chain) / len(told),
        "end": sum(task["end"] - task["first"] for task in told) * len(chain) / len(told),
    }


def days_of(schedulers: int, idle_seconds: float, num_days: int) -> list[dict[str, float]]:
    """The parts of each day through so many schedulers, the first, which warms up, left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dags").mkdir()
        (folder / "dags" / "idle.py").write_text(DAG_FILE)
        settings = on_free_ports(folder / "home", schedulers=schedulers, dags_dir=folder / "dags")
        settings.remember()
        kept, orchestrator.IDLE_SECONDS = orchestrator.IDLE_SECONDS, idle_seconds
        try:
            services.start(settings, progress=lambda line: None)
            with Airflow(settings, token=services.airflow_token(settings)) as airflow:
                assert wait_for(lambda: DAG in airflow.dag_ids(), seconds=180), "Airflow did not find the DAG"
                airflow.unpause(DAG)
                airflow.backfill(DAG, START, START + timedelta(days=num_days))
                assert wait_for(lambda: len(rows(settings)) > num_days, seconds=60 * (num_days + 1)), "too slow"
            found = rows(settings)
            return [parts_of(found[run]) for run in sorted(found)[1:]]
        finally:
            orchestrator.IDLE_SECONDS = kept
            services.stop(settings)


def forked() -> float:
    """Seconds of the chain as bare processes."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKS, str(len(STEPS))],
        cwd=REPOSITORY, env=child_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """A line per setting, then the result: that of the settings that `infra up` uses."""
    made = parser(__doc__)
    made.add_argument("--schedulers", type=int, nargs="+", default=[1, 2])
    made.add_argument("--idle", type=float, nargs="+", default=[orchestrator.IDLE_SECONDS], help="seconds, each")
    parsed = made.parse_args()
    options = options_of(parsed)
    seconds: dict[str, float] = {}
    with machine() as found:
        bare = forked()
        for schedulers in parsed.schedulers:
            for idle in parsed.idle:
                days = days_of(schedulers, idle, options.runs)
                seconds[f"{schedulers} x {idle:g}"] = statistics.median(day["whole"] for day in days)
                parts = {part: spread([day[part] for day in days], digits=2) for part in ("whole", *PARTS)}
                show({"schedulers": schedulers, "idle_seconds": idle, "days": len(days), **parts})
    chosen = next(iter(seconds.values()))
    finish(
        "scheduling", options=options, machine=found, steps=len(STEPS), bare_ms=round(bare * 1000, 1),
        seconds_a_day={name: round(value, 2) for name, value in seconds.items()},
        seconds_a_step=round(chosen / len(STEPS), 2), goal=GOAL, ratio=bare / chosen,
    )  # fmt: skip


if __name__ == "__main__":
    main()
