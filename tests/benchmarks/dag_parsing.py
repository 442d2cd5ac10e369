"""Parsing the DAG files with 1, 10 and 50 user models, each file in a fork, against files of as many bare DAGs.

Airflow's DAG processor parses every file again and again, and a task its own once more before it begins. A file's time
is that of its imports beyond Airflow's, and of making the DAGs. The bare file makes as many DAGs of as many empty
tasks.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.settings import REPOSITORY, child_environment
from tests.benchmarks.common.report import Options, finish, machine, options_of, parser, show

GOAL = 0.5
RECIPES, QUICK_RECIPES = (1, 10, 50), (1,)
_FILE = """
# an airflow DAG file
import runpy
from dataclasses import replace
from functools import partial
from trainer.recipes import DOWNSTREAM_MODELS, USER_MODELS
from trainer.recipes.demo import demo
USER_MODELS.clear()
USER_MODELS.update({{f"model_{{n}}": partial(replace, demo(), name=f"model_{{n}}") for n in range({recipes})}})
DOWNSTREAM_MODELS.clear()
globals().update(runpy.run_path({path!r}))
"""


def parsed(folder: Path, recipes: int, runs: int) -> dict[str, Any]:
    """By file, what `tests.benchmarks.common.parsing` tells."""
    dags = folder / f"dags-{recipes}"
    dags.mkdir(parents=True)
    for path in (REPOSITORY / "dags").glob("[a-z]*.py"):
        if "globals()" in path.read_text():
            (dags / path.name).write_text(_FILE.format(recipes=recipes, path=str(path)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.common.parsing", str(dags), str(runs)],
        cwd=REPOSITORY,
        env=child_environment(
            AIRFLOW_HOME=str(folder),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{folder}/airflow.db",
            AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"parsing {dags} failed: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(recipes: int, files: dict[str, Any]) -> dict[str, Any]:
    """Medians, in ms, of every file and of the folder."""
    medians = {
        name: {key: round(statistics.median(file[key]), 1) for key in ("ms", "cpu_ms", "bare_ms", "bare_cpu_ms")}
        for name, file in files.items()
    }
    whole = {key: round(sum(file[key] for file in medians.values()), 1) for key in next(iter(medians.values()))}
    dags = sum(file["dags"] for file in files.values())
    tasks = sum(file["tasks"] for file in files.values())
    return {"recipes": recipes, "dags": dags, "tasks": tasks, "folder": whole, "files": medians}


def measure(options: Options) -> list[dict[str, Any]]:
    """One line per number of recipes."""
    lines = []
    for recipes in QUICK_RECIPES if options.quick else RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(told(recipes, parsed(Path(folder), recipes, options.runs)))
        show(lines[-1])
    return lines


def main() -> None:
    """A line per number of recipes, then the result."""
    options = options_of(parser(__doc__).parse_args())
    with machine() as found:
        lines = measure(options)
    one, most = lines[0], lines[-1]
    files = len(one["files"])
    more = max(most["recipes"] - one["recipes"], 1)
    finish(
        "dag_parsing", options=options, machine=found,
        own_cpu_ms_per_file=round((one["folder"]["cpu_ms"] - one["folder"]["bare_cpu_ms"]) / files, 1),
        cpu_ms_per_further_recipe=round((most["folder"]["cpu_ms"] - one["folder"]["cpu_ms"]) / more, 1),
        folder_ms={line["recipes"]: line["folder"]["ms"] for line in lines},
        goal=GOAL, ratio=most["folder"]["bare_cpu_ms"] / most["folder"]["cpu_ms"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
