"""Saving and loading a model (`trainer.saver`, `trainer.sharding`), against the disk's own rate for the same bytes.

The limit is one sequential write and fsync, and one sequential read, of a file as large as the checkpoint, in turns
with the save and the load. A save is all that makes a waypoint: write, SHA-256, manifest, fsync, rename; a load is
verified first. `stall` is the share of a save's own time for which training waits: the copy of the state. `slowdown`
is how much longer steps take while a save runs beside them; on a machine without an idle core the save's CPU time is
part of it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.batches import Encoder
from features.lake import Partition
from features.schema import Schema, Table
from tests.benchmarks.common.report import finish, machine, options_of, parser
from tests.trainer.planted import DAY, SCHEMA, PlantedSource, planted_examples, planted_recipe
from trainer import sharding, waypoints
from trainer.assignment import Assignment
from trainer.checkpoint import verify
from trainer.config import TrainingConfig
from trainer.locks import exclusive
from trainer.pipeline import Steps
from trainer.resume import state_of
from trainer.saver import WaypointSaver

GOAL = 0.5
STALL_GOAL = 0.05
MB = 1e6
_BLOCK = 8 * 2**20
_QUICK_ROWS = 500_000


def config_of(rows: int) -> TrainingConfig:
    """The planted recipe, with a user table of so many rows of 16 floats."""
    tables = tuple(Table(name=t.name, num_rows=rows if t.name == "user" else t.num_rows) for t in SCHEMA.tables)
    schema = Schema(tables=tables, sparse=SCHEMA.sparse, dense=SCHEMA.dense, tasks=SCHEMA.tasks)
    return TrainingConfig.of(planted_recipe(source=PlantedSource(schema=schema)))


def write_file(path: Path, num_bytes: int) -> float:
    """Seconds to write so many bytes and have them on the disk."""
    block = os.urandom(_BLOCK)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for begin in range(0, num_bytes, _BLOCK):
            file.write(block[: min(_BLOCK, num_bytes - begin)])
        os.fsync(file.fileno())
    return time.perf_counter() - started


def forget(path: Path) -> None:
    """Drop a file that is on the disk from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path: Path) -> float:
    """Seconds to read a file from the disk."""
    forget(path)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(_BLOCK):
            pass
    return time.perf_counter() - started


def timed(action: Callable[[], object]) -> float:
    """Seconds of `action`."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


class Bench:
    """One rank with a model, a day that it learns, and a saver."""

    def __init__(self, home: Path, *, rows: int) -> None:
        config = config_of(rows)
        self.home = home
        self.assignment = Assignment(
            config=config,
            ds=DAY,
            lake=str(home),
            examples=Partition(table="examples/planted", ds=DAY, fingerprint="0", version=0),
            parent=None,
            fingerprint="f" * 64,
            revision=0,
            destination=home / "day",
            lock=home / "lock",
            token="bench",  # noqa: S106
            device="cpu",
            deadline_seconds=600,
        )
        self.sharded = sharding.build(config, local_world_size=1)
        encoder = Encoder(config.schema, tasks=config.task_names)
        rows_of_batch = planted_examples(config.batch_size, seed=0).select(encoder.columns).combine_chunks()
        self._batch = encoder.encode(rows_of_batch)
        self._steps = Steps(self.sharded, self.sharded.module)
        self.step()
        self.saver = WaypointSaver(self.assignment, plan=self.sharded.plan, resumed=0, began=time.monotonic())
        self.saver.warm_up(self.state())
        self._saved = 0

    def state(self) -> dict[str, Any]:
        """What a waypoint holds."""
        return state_of(self.sharded, {"sums": torch.zeros(4, 2)})

    def step(self) -> float:
        """Seconds of one training step."""
        return timed(lambda: self._steps.progress(iter([self._batch])))

    def turn(self) -> dict[str, float]:
        """One save, with steps beside it, one load, and the disk."""
        alone = statistics.median(self.step() for _ in range(20))
        self._saved += 1
        self.saver.save(self._saved, self.state())
        beside: list[float] = []
        while self.saver.is_running:
            beside.append(self.step())
        self.saver.finish()
        path = waypoints.waypoint_path(self.assignment.destination, self._saved)
        num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for file in path.rglob("*"):
            if file.is_file():
                forget(file)
        load = timed(lambda: (verify(path), self.sharded.load(path)))
        flat = self.home / "flat"
        write, read = write_file(flat, num_bytes), read_file(flat)
        flat.unlink()
        save, stall = self.saver.save_seconds[-1], self.saver.stall_seconds[-1]
        return {
            "mb": num_bytes / MB,
            "save": num_bytes / MB / save,
            "load": num_bytes / MB / load,
            "write": num_bytes / MB / write,
            "read": num_bytes / MB / read,
            "save_ratio": write / save,
            "load_ratio": read / load,
            "stall": stall / save,
            "stall_ms": 1000 * stall,
            "slowdown": statistics.mean(beside or [alone]) / alone,
        }


def measure(*, rows: int, runs: int, home: Path) -> dict[str, Any]:
    """Medians over the turns, after one that warms up, with the extremes of what counts."""
    dist.init_process_group("gloo", init_method=f"file://{home / 'store'}", rank=0, world_size=1)
    with exclusive(home / "lock", token="bench"):  # noqa: S106
        bench = Bench(home, rows=rows)
        turns = [bench.turn() for _ in range(1 + runs)][1:]
    dist.destroy_process_group()
    result: dict[str, Any] = {
        name: float(f"{statistics.median(turn[name] for turn in turns):.4g}") for name in turns[0]
    }
    for name in ("save_ratio", "load_ratio", "stall"):
        values = sorted(turn[name] for turn in turns)
        result[f"{name}_range"] = [round(values[0], 4), round(values[-1], 4)]
    return result


def main() -> None:
    """Print the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=6_000_000, help="of the large table, 68 bytes each")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    options.home.mkdir(parents=True, exist_ok=True)
    with machine() as seen, tempfile.TemporaryDirectory(dir=options.home) as home:
        result = measure(rows=_QUICK_ROWS if options.quick else parsed.rows, runs=options.runs, home=Path(home))
    ratio = min(result["save_ratio"], result["load_ratio"])
    finish(
        "checkpoint",
        options=options,
        unit="MB/s",
        **result,
        machine=seen,
        stall_goal=STALL_GOAL,
        goal=GOAL,
        ratio=ratio,
    )


if __name__ == "__main__":
    main()
