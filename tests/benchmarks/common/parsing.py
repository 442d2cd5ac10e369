"""Parses DAG files as Airflow's DAG processor does: each in a fork of a process that has imported Airflow."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

IMPORTED = (
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    *(f"airflow.providers.standard.operators.{name}" for name in ("empty", "hitl", "trigger_dagrun")),
)
BARE = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain
for number, tasks in enumerate({tasks}):
    with DAG(dag_id=f"bare_{{number}}", schedule=None) as dag:
        chain(*(EmptyOperator(task_id=f"task_{{task}}") for task in range(tasks)))
    globals()[dag.dag_id] = dag
"""
"""As many DAGs of as many tasks, and nothing of ours."""


def parse(path: Path) -> dict[str, Any]:
    """Milliseconds of wall and of CPU, the tasks of each DAG, and what was imported for it."""
    from airflow.dag_processing.dagbag import DagBag

    before = set(sys.modules)
    wall, cpu = time.perf_counter(), time.process_time()
    bag = DagBag(dag_folder=str(path))
    cost = {"ms": (time.perf_counter() - wall) * 1000, "cpu_ms": (time.process_time() - cpu) * 1000}
    assert not bag.import_errors, bag.import_errors
    tasks = [len(dag.tasks) for dag in bag.dags.values()]
    return cost | {"tasks": tasks, "modules": sorted(set(sys.modules) - before)}


def in_fork(path: Path) -> dict[str, Any]:
    """`parse` in a fork, which ends with it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(parse(path) | {"modules": 0}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found: dict[str, Any] = json.loads(lines.read())
    os.wait()
    return found


def main(folder: Path, runs: int) -> None:
    """A JSON object: by file, and by the bare file that stands for it, the runs' milliseconds."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # as the DAG processor does: or a fork's first collection goes over all of Airflow's objects
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        tasks = in_fork(path)["tasks"]
        if not tasks:
            continue
        bare = folder / "bare" / path.name
        bare.parent.mkdir(exist_ok=True)
        bare.write_text(BARE.format(tasks=tasks))
        turns = [(in_fork(path), in_fork(bare)) for _ in range(runs)]
        found[path.stem] = {
            "dags": len(tasks),
            "tasks": sum(tasks),
            "ms": [ours["ms"] for ours, _ in turns],
            "cpu_ms": [ours["cpu_ms"] for ours, _ in turns],
            "bare_ms": [bare_one["ms"] for _, bare_one in turns],
            "bare_cpu_ms": [bare_one["cpu_ms"] for _, bare_one in turns],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
