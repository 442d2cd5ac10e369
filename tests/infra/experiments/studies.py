"""Studies that measure nothing, in a module, so that worker processes find them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from infra.experiments.finding import Column, Finding, Row, Table, Verdict
from infra.experiments.setting import Setting
from infra.experiments.statistics import estimate
from infra.experiments.study import Results, Study, Trial, Values, by_seed

WAITS, FAILS, DIES = 2, 3, 4
"""Seeds."""
PATIENCE_SECONDS = 500
"""A worker starts within seconds, where others leave it a core."""


def measured(home: Path) -> list[tuple[int, int]]:
    """(seed, process) of every unit that was begun."""
    path = home / "measured.txt"
    if not path.exists():
        return []
    return [(int(seed), int(process)) for seed, process in map(str.split, path.read_text().splitlines())]


def measure(trial: Trial) -> Values:
    """Seed 2 waits for the file `go`, seed 3 fails, seed 4 takes its process with it."""
    home = trial.settings.home
    with (home / "measured.txt").open("a") as file:
        file.write(f"{trial.seed} {os.getpid()}\n")
    trial.progress("begun", 0.5)
    began = time.monotonic()
    while trial.seed == WAITS and not (home / "go").exists():
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.05)
    if trial.seed == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.seed == FAILS:
        raise ValueError("seed 3 is no good")
    return {"value": 1.5 * trial.seed}


def conclude(setting: Setting, results: Results) -> Finding:
    """The mean of the values."""
    found = estimate(by_seed(results, lambda parts: parts["all"]["value"]))
    table = Table(
        title="Values",
        rows_are="what",
        columns=(Column(title="paper", digits=1), Column(title="ours", digits=2, signed=True, drawn=True)),
        rows=(Row(name="value", cells=(1.0, found)), Row(name="nothing", cells=(None, "no %"))),
    )
    verdict = Verdict(claim="Values grow.", agrees=True, why="They do.")
    return Finding(
        name="study", title="A study", setting=setting.name, seeds=tuple(sorted(results)), tables=(table,),
        verdicts=(verdict,), notes=("A note.",),
    )  # fmt: skip


STUDY = Study(name="study", measure=measure, conclude=conclude)
