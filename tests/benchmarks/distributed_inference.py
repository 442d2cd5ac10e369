"""Users/s of one worker whose tables lie with 1, 2 or 4 shards, against a worker that holds them all.

The `demo` tower with large tables (by default 1.8 million rows of 32) is sealed once. Shards are started by their
command, a process each, on loopback; each worker is a process of its own. Ids are drawn evenly, so that next to no row
occurs twice: the most that can be fetched. In turns, each worker embeds the same encoded users, in batches of 512, of
32 (a micro-batch) and of one; its vectors must be those of the worker that holds everything, bit for bit. Memory is the
proportional set size (PSS) after the last turn: it counts what of a mapped file a process has touched. `empty_mib` is a
shard's before it loads anything, `peak_mib` the most that was ever resident of one. On two cores, worker and shards
share what a deployment gives each.

The last line's ratio is that of batches of 512, two shards.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from features.schema import Table
from infra.settings import REPOSITORY, Settings, child_environment
from tests.benchmarks.common.memory import peak_mib, pss_mib
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from trainer.recipe import Export, Recipe
from trainer.recipes import get_recipe

GOAL = 0.5
NUM_SHARDS = (1, 2, 4)
ROWS, QUICK_ROWS = 250_000, 2_000
"""Of each of the seven large tables."""
USERS, QUICK_USERS = 8_192, 512
BATCHES = {512: 1, 32: 4, 1: 32}
"""Users of a batch, and of how many of the users it is timed: one in so many."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told. addresses: of its shards; none: it holds the tables."""

    recipe: Recipe
    folder: Path
    addresses: tuple[str, ...]
    num_users: int


def large(tables: str, num_rows: int) -> Recipe:
    """`demo` with so many rows in every table of ids."""
    recipe = get_recipe("demo")
    bigger = tuple(
        Table(name=table.name, num_rows=num_rows)
        for table in recipe.schema.tables
        if table.name == "user" or table.name.startswith("ids_")
    )
    return replace(recipe, tables=bigger, export=Export(tables=tables))  # type: ignore[arg-type]


def seal(recipe: Recipe, settings: Settings) -> Path:
    """In a process of its own, whose memory is nobody's."""
    from snapshots.export import export_day
    from trainer.model.user_tower import UserTower

    folder, _ = export_day(
        recipe, date(2026, 1, 1), fingerprint="0" * 64, maps={}, settings=settings,
        make_tower=lambda: UserTower(recipe.schema, recipe.user_tower).eval().requires_grad_(False),
    )  # fmt: skip
    return folder


def work(job: Job, pipe: Connection) -> None:
    """A worker: for each batch size that it is sent, users/s and a digest of the vectors; at the end its memory."""
    import torch

    from serving.shards.client import Shards
    from serving.shards.sharded_snapshot import load_sharded
    from snapshots.embedder import Embedder
    from snapshots.export import load_snapshot
    from tests.benchmarks.batch_inference import users_of

    torch.set_num_threads(1)
    load = partial(load_sharded, shards=Shards(job.addresses, deadline_seconds=30)) if job.addresses else load_snapshot
    embedder = Embedder(job.folder, load=load)
    users = users_of(job.recipe.schema, job.num_users)
    batches = {
        size: [
            embedder.encode(users.slice(begin, size))[0] for begin in range(0, max(job.num_users // one_in, size), size)
        ]
        for size, one_in in BATCHES.items()
    }
    pipe.send("ready")
    while size := pipe.recv():
        num_users = sum(len(one[2]) for one in batches[size])
        began = time.perf_counter()
        vectors = embedder.compute(batches[size], num_rows=num_users)
        rate = num_users / (time.perf_counter() - began)
        pipe.send((rate, hashlib.sha256(vectors.tobytes()).hexdigest()))
    pipe.send(pss_mib())


@contextmanager
def shard(settings: Settings, index: int, of: int) -> Iterator[tuple[int, str]]:
    """Started by its command: process id and address."""
    command = f"-m infra.commands serving shard --recipe demo --index {index} --of {of} --port 0"
    process = subprocess.Popen(
        [sys.executable, *command.split()], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=child_environment(USERMODEL_HOME=str(settings.home)),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


class Worker:
    """A worker's process."""

    def __init__(self, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=work, args=(job, theirs), daemon=True)
        self._process.start()

    def ask(self, size: int) -> tuple[float, str]:
        """Users/s and digest of a batch size."""
        self._pipe.send(size)
        found: tuple[float, str] = self._pipe.recv()
        return found

    def end(self) -> float:
        """Its memory, in MiB."""
        self._pipe.send(0)
        found: float = self._pipe.recv()
        self._process.join()
        return found

    def wait(self) -> None:
        """Until its users are encoded."""
        self._pipe.recv()


def measure(workers: dict[int, Worker], *, runs: int) -> dict[int, dict[int, list[float]]]:
    """Users/s by batch size and number of shards (0: none), in turns. AssertionError where a bit differs."""
    rates: dict[int, dict[int, list[float]]] = {size: {of: [] for of in workers} for size in BATCHES}
    for size in BATCHES:
        for turn in range(1 + runs):
            found = {of: worker.ask(size) for of, worker in workers.items()}
            assert len({digest for _, digest in found.values()}) == 1, f"other bits in batches of {size}: {found}"
            for of, (rate, _) in found.items():
                rates[size][of] += [rate] if turn else []
    return rates


def table_mib(recipe: Recipe) -> float:
    """Of all tables of the user side, as sealed."""
    from snapshots.contract import user_schema

    rows = sum(table.num_rows for table in user_schema(recipe.schema).tables)
    row_bytes = {"fp32": 4, "fp16": 2, "int8": 1}[recipe.export.tables] * recipe.user_tower.dim
    return round(rows * (row_bytes + (8 if recipe.export.tables == "int8" else 0)) / 2**20, 1)


def lines_of(rates: dict[int, dict[int, list[float]]], memory: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One for each number of shards."""
    for of, found in memory.items():
        per_batch = {
            f"batch_{size}": {
                "users_per_second": spread(by[of]),
                "ratio": round(statistics.median(a / b for a, b in zip(by[of], by[0], strict=True)), 3),
            }
            for size, by in rates.items()
        }
        yield {"shards": of, **found, **per_batch}


def run(recipe: Recipe, home: Path, num_shards: Sequence[int], *, num_users: int, runs: int) -> list[dict[str, Any]]:
    """Everything but the last line."""
    settings = Settings(home=home, _env_file=None)
    with ExitStack() as stack, multiprocessing.get_context("spawn").Pool(1) as pool:
        folder = pool.apply(seal, (recipe, settings))
        pool.close()
        pool.join()
        shards = {of: [stack.enter_context(shard(settings, i, of)) for i in range(of)] for of in num_shards}
        empty = {of: [pss_mib(pid) for pid, _ in found] for of, found in shards.items()}
        addresses = {0: (), **{of: tuple(address for _, address in found) for of, found in shards.items()}}
        workers = {
            of: Worker(Job(recipe=recipe, folder=folder, addresses=given, num_users=num_users))
            for of, given in addresses.items()
        }
        for worker in workers.values():
            worker.wait()
        rates = measure(workers, runs=runs)
        memory: dict[int, dict[str, Any]] = {}
        for of, worker in workers.items():
            memory[of] = {"worker_mib": worker.end()}
            if of:
                pids = [pid for pid, _ in shards[of]]
                memory[of] |= {
                    "shard_mib": [pss_mib(pid) for pid in pids],
                    "peak_mib": max(peak_mib(pid) for pid in pids),
                    "empty_mib": max(empty[of]),
                }
        return list(lines_of(rates, memory))


def main() -> None:
    """A line for each number of shards, then the last."""
    made = parser(__doc__)
    made.add_argument("--tables", default="fp32", choices=["fp32", "fp16", "int8"])
    made.add_argument("--rows", type=int, help=f"of each of the seven large tables (default {ROWS:,})")
    made.add_argument("--shards", type=int, nargs="+", default=NUM_SHARDS, help="numbers of shards; 2 is among them")
    parsed = made.parse_args()
    options = options_of(parsed)
    recipe = large(parsed.tables, parsed.rows or (QUICK_ROWS if options.quick else ROWS))
    num_users = QUICK_USERS if options.quick else USERS
    options.home.mkdir(parents=True, exist_ok=True)
    with machine() as found, tempfile.TemporaryDirectory(dir=options.home) as home:
        num_shards = (2,) if options.quick else tuple(parsed.shards)
        results = run(recipe, Path(home), num_shards, num_users=num_users, runs=options.runs)
    for line in results:
        show(line)
    (ratio,) = (line["batch_512"]["ratio"] for line in results if line["shards"] == 2)
    finish(
        "distributed_inference", options=options, tables=parsed.tables, table_mib=table_mib(recipe), users=num_users,
        machine=found, results=results, goal=GOAL, ratio=ratio,
    )  # fmt: skip


if __name__ == "__main__":
    main()
