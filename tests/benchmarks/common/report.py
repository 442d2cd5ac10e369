"""Medians and spread, what else the machine was doing, and the last line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.settings import get_settings

RUNS = 5
QUICK_RUNS = 1
_STAT = Path("/proc/stat")
_IDLE = (3, 4)
"""Of the first line of /proc/stat: idle, and idle because of a disk."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark can be told."""

    runs: int
    quick: bool
    home: Path
    """Lake and generated logs; kept, so that the next run begins at once."""
    data_dir: Path | None
    """The folder that holds globo/ and criteo_like/."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    settings = get_settings()
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, help=f"timed runs of each, after a warm-up (default {RUNS})")
    made.add_argument("--quick", action="store_true", help="a few steps once: shows that it runs; figures mean nothing")
    made.add_argument("--home", type=Path, default=settings.home / "benchmarks", help="where its data is kept")
    made.add_argument(
        "--data", type=Path, default=settings.data_dir, help="folder of the real logs (default USERMODEL_DATA_DIR)"
    )
    return made


def options_of(parsed: argparse.Namespace) -> Options:
    """The common ones. ValueError for less than one run."""
    runs = parsed.runs if parsed.runs is not None else QUICK_RUNS if parsed.quick else RUNS
    if runs < 1:
        raise ValueError(f"--runs is {runs}; time at least one")
    logging.disable(logging.INFO)
    return Options(runs=runs, quick=parsed.quick, home=parsed.home.absolute(), data_dir=parsed.data)


def spread(values: Sequence[float], *, digits: int = 0) -> dict[str, float]:
    """Rates or ratios: the median, the lowest and the highest."""
    return {
        "median": round(statistics.median(values), digits),
        "slowest": round(min(values), digits),
        "fastest": round(max(values), digits),
    }


@contextmanager
def machine() -> Iterator[dict[str, Any]]:
    """Filled when the block ends: load averages before and after it, and the cores that others kept busy in it."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": _load()}
    started, busy, own = time.monotonic(), _busy_seconds(), _own_seconds()
    yield found
    seconds = time.monotonic() - started
    others = (_busy_seconds() - busy - (_own_seconds() - own)) / seconds
    found |= {"load_after": _load(), "cores_used_by_others": round(max(others, 0.0), 2), "seconds": round(seconds)}


def show(line: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(line), flush=True)


def finish(benchmark: str, *, options: Options, goal: float | None, ratio: float | None, **values: Any) -> None:
    """The last line; `ratio` is its last key."""
    show(
        {
            "benchmark": benchmark,
            "quick": options.quick,
            "runs": options.runs,
            **values,
            "goal": goal,
            "ratio": None if ratio is None else round(ratio, 3),
        }
    )


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def _busy_seconds() -> float:
    """Of all cores, since the machine started."""
    if not _STAT.exists():
        return 0.0
    ticks = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]]
    return sum(tick for index, tick in enumerate(ticks) if index not in _IDLE) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU time of this process and of the ranks that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
