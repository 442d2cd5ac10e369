"""The comparison that several benchmarks make: the whole pipeline against the bare loop."""

from __future__ import annotations

import statistics
from typing import Any

from tests.benchmarks.common.ranks import Result, run
from tests.benchmarks.common.report import spread
from tests.benchmarks.common.split import PARTS
from tests.benchmarks.common.workloads import Workload


def compare(workload: Workload, *, ranks: int, runs: int, splits: int = 1) -> dict[str, Any]:
    """Examples/s of whole days, from Delta on disk to the loss, and of the bare loop, in turns; where a step's
    time goes. `ratio` is the median of the turns'."""
    result = run(workload, ranks=ranks, runs=runs, splits=splits)[0]
    by_clock, by_cpu = ratios(result)
    return {
        "model": workload.config.name,
        "ranks": ranks,
        "batch_size": workload.config.batch_size,
        "examples": result.num_examples,
        "steps": result.num_steps,
        "examples_per_second": spread(result.rates("whole")),
        "bare_examples_per_second": spread(result.rates("bare")),
        "examples_per_cpu_second": spread(result.cpu_rates("whole")),
        "bare_examples_per_cpu_second": spread(result.cpu_rates("bare")),
        "step_ms": {name: round(statistics.median(of[name] for of in result.split_ms), 3) for name in PARTS},
        "first_ne": round(result.first_ne, 4),
        "last_ne": round(result.last_ne, 4),
        "cpu_ratio": round(statistics.median(by_cpu), 3),
        "lowest_ratio": round(min(by_clock), 3),
        "highest_ratio": round(max(by_clock), 3),
        "ratio": round(statistics.median(by_clock), 3),
    }


def ratios(result: Result) -> tuple[list[float], list[float]]:
    """Whole over bare, turn by turn: by the clock, by CPU time."""
    by_clock = [whole / bare for whole, bare in zip(result.rates("whole"), result.rates("bare"), strict=True)]
    by_cpu = [whole / bare for whole, bare in zip(result.cpu_rates("whole"), result.cpu_rates("bare"), strict=True)]
    return by_clock, by_cpu
