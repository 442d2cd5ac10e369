"""Those who write tables and are killed. Light to import: each is started anew, many times."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.examples import BuiltDay, build_examples
from features.lake import Lake
from tests.features.worlds import TINY, settings_in
from tests.trainer.planted import DAY

TABLE = "examples/killed"
MANY_ROWS = 2_000_000
NUM_EVENTS = 20_000
SPAWN = multiprocessing.get_context("spawn")
_BIG = replace(TINY, events_per_day=NUM_EVENTS)


def rows(first: int, num_rows: int) -> pa.Table:
    """Numbers from `first` on."""
    return pa.table({"value": pa.array(np.arange(first, first + num_rows))})


def write_many(root: Path, first: int, key: str, begun: Event) -> None:
    """Commit a day of numbers."""
    begun.set()
    Lake(root).commit(TABLE, DAY, rows(first, MANY_ROWS), fingerprint=key)


def build(home: Path) -> BuiltDay:
    """The tiny world's day, of 20,000 events."""
    return build_examples(_BIG, DAY, settings=settings_in(home), reject_max_share=0.05)


def build_in_process(home: Path, begun: Event) -> None:
    """What a process of its own does."""
    begun.set()
    build(home)


def build_together(home: Path, barrier: Barrier) -> None:
    """What each of those does that begin at once."""
    barrier.wait()
    build(home)


def kill_after(target: Callable[..., None], *arguments: object, seconds: float) -> None:
    """Kill a process `seconds` after it has begun its work."""
    begun = SPAWN.Event()
    worker = SPAWN.Process(target=target, args=(*arguments, begun))
    worker.start()
    assert begun.wait(120)
    time.sleep(seconds)
    worker.kill()
    worker.join(60)
    assert worker.exitcode in (0, -signal.SIGKILL), worker.exitcode
