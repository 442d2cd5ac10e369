"""Batch inference (`snapshots.shards`, Parquet in to committed Parquet out), against the bare exported forward.

The limit is the graph alone on batches that are encoded and in memory. The pipeline reads, hashes, pools with two
earlier days, compresses, fsyncs and commits beside it. Also measured, in the same turns and on the same tower:

- `tolist_users_per_second`: how TorchEasyRec's predict is built (a reader, a forward and a writer thread with queues
  between them, vectors through `tolist()` into `list<double>`, no pooling), with our graph and batches in it; written
  for this comparison, as its package cannot be installed here.
- `feed_users_per_second`, `tolist_feed_users_per_second`: both pipelines with vectors that are there already, in place
  of the forward: what each can feed, as where a GPU computes.
- `eager_users_per_second`: the same with the trained TorchRec module in batches of 4096, as a trainer's own predict
  runs it.
"""

from __future__ import annotations

import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.arrow import user_features_schema
from features.batches import Encoder
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID, Schema
from infra.settings import Settings
from snapshots.embedder import USERS_PER_FORWARD, Embedder, one_thread
from snapshots.export import export_day
from snapshots.registry import Version
from snapshots.shards import USERS_PER_WINDOW, Work, write_shard
from tests.benchmarks.common.report import finish, machine, options_of, parser, spread
from trainer.model.user_tower import UserTower
from trainer.recipe import Export, Inference, Recipe
from trainer.recipes import get_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from snapshots.embedder import Inputs

GOAL = 0.9
USERS, QUICK_USERS = 100_000, 4_000
DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
EAGER_BATCH = 4_096
_LONGEST = 12


def users_of(schema: Schema, num_users: int) -> pa.Table:
    """Random features of users in the order of their ids."""
    rng = np.random.default_rng(0)
    layout = user_features_schema(schema)
    columns: dict[str, Any] = {
        USER_ID: np.cumsum(rng.integers(1, 9, num_users)),
        EVENT_TIME: pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * num_users, layout.field(EVENT_TIME).type),
    }
    for feature in schema.sparse_of("user"):
        lengths = rng.integers(0, _LONGEST + 1, num_users)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns[feature.name] = pa.ListArray.from_arrays(offsets, rng.integers(0, 2**40, offsets[-1]))
    for dense in schema.dense_of("user"):
        columns[dense.name] = rng.random(num_users).astype(np.float32)
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in layout}, schema=layout)


class World:
    """One model with a sealed snapshot, a day of users, and two earlier days to pool with."""

    def __init__(self, recipe: Recipe, num_users: int, home: Path) -> None:
        self.recipe, self.num_users = recipe, num_users
        self.lake = Lake(home / "lake")
        self.tower = UserTower(recipe.schema, recipe.user_tower).eval().requires_grad_(False)
        settings = Settings(home=home, _env_file=None)
        folder, _ = export_day(
            recipe, DAYS[0], fingerprint="0" * 64, make_tower=lambda: self.tower, maps={}, settings=settings
        )
        self.embedder = Embedder(folder)
        table, rows = f"user_features/{recipe.source.name}", users_of(recipe.schema, num_users)
        self.users = self.lake.commit(table, DAYS[2], rows, fingerprint=fingerprint(num_users))
        self.version = Version(
            model=recipe.name, number=1, ds=DAYS[2], fingerprint="0" * 64, parent=None, path=folder, run_id="",
            decision="pending",
        )  # fmt: skip
        previous: list[Partition] = []
        for ds in DAYS[:2]:
            previous.insert(0, self.embed(ds, previous=(), salt=""))
        self.previous = tuple(previous)

    def embed(
        self, ds: date, *, previous: tuple[Partition, ...], salt: str, embedder: Embedder | None = None
    ) -> Partition:
        """All shards and the commit, as `snapshots.inference.infer` does them."""
        work = Work(
            recipe=self.recipe, version=replace(self.version, ds=ds), users=self.users, previous=previous,
            key=fingerprint(str(ds), salt),
        )  # fmt: skip
        for shard in work.shards:
            write_shard(
                work, shard, Lake(self.lake.root), embedder or self.embedder
            )  # checksums are verified each time
        return self.lake.commit_files(work.table, ds, work.files, schema=work.schema, fingerprint=work.key)

    def read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The day's users, as they lie."""
        batches: Iterator[pa.RecordBatch] = self.lake.dataset(self.users).to_batches(
            columns=[USER_ID, *columns], batch_size=EAGER_BATCH, use_threads=False
        )
        return batches


class Free(Embedder):
    """An embedder that has computed before."""

    def __init__(self, embedder: Embedder, *, most: int) -> None:
        self.__dict__.update(vars(embedder))
        tower = self._snapshot.contract.user_tower
        shape = (most, tower.num_embeddings, tower.dim)
        self._vectors = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def compute(self, inputs: Sequence[Inputs], *, num_rows: int) -> NDArray[np.float32]:
        """The same ones each time."""
        return self._vectors[:num_rows]


def bare(world: World) -> Callable[[], object]:
    """The graph on encoded batches."""
    rows = pa.Table.from_batches(world.read(world.embedder.columns))
    inputs = world.embedder.encode(rows)
    return lambda: world.embedder.compute(inputs, num_rows=rows.num_rows)


def three_threads(
    batches: Iterator[Any], forward: Callable[[Any], Any], write: Callable[[Any, Any], None], *, waiting: int = 8
) -> None:
    """Reader, forward, writer, with bounded queues: the documented pattern."""
    to_forward: queue.Queue[Any] = queue.Queue(waiting)
    to_write: queue.Queue[Any] = queue.Queue(waiting)

    def compute() -> None:
        with torch.inference_mode():
            while (item := to_forward.get()) is not None:
                to_write.put((item, forward(item)))
        to_write.put(None)

    def written() -> None:
        while (item := to_write.get()) is not None:
            write(*item)

    threads = [threading.Thread(target=one, daemon=True) for one in (compute, written)]
    for thread in threads:
        thread.start()
    for batch in batches:
        to_forward.put(batch)
    to_forward.put(None)
    for thread in threads:
        thread.join()


def predict(world: World, path: Path, *, eager: bool = False, embedder: Embedder | None = None) -> Callable[[], None]:
    """Vectors through `tolist()` into a Parquet file of `list<double>`."""
    encoder = Encoder(world.recipe.schema, sides=("user",))
    tower = world.recipe.user_tower
    names = [f"embedding_{k}" for k in range(tower.num_embeddings)]
    schema = pa.schema([(USER_ID, pa.int64()), *((name, pa.list_(pa.float64())) for name in names)])
    size = EAGER_BATCH if eager else USERS_PER_FORWARD
    graph = embedder or world.embedder

    def encoded() -> Iterator[Any]:
        for rows in world.read(encoder.columns):
            for begin in range(0, rows.num_rows, size):
                part = rows.slice(begin, size)
                yield part.column(USER_ID), encoder.encode(part) if eager else graph.encode(part)[0]

    def forward(item: Any) -> torch.Tensor:
        if eager:
            found: torch.Tensor = world.tower(item[1].user_sparse, item[1].user_dense)
            return found
        return torch.from_numpy(graph.compute([item[1]], num_rows=len(item[1][2])))

    def run() -> None:
        with pq.ParquetWriter(path, schema) as writer, one_thread():

            def write(item: Any, vectors: torch.Tensor) -> None:
                lists = [pa.array(vectors[:, k].tolist(), pa.list_(pa.float64())) for k in range(len(names))]
                writer.write_batch(pa.record_batch([item[0], *lists], schema=schema))

            three_threads(encoded(), forward, write)

    return run


def rate(run: Callable[[], object], num_users: int) -> float:
    """Users per second."""
    started = time.perf_counter()
    with one_thread():
        run()
    return num_users / (time.perf_counter() - started)


def main() -> None:
    """One line."""
    made = parser(__doc__)
    made.add_argument("--recipe", default="demo")
    made.add_argument("--tables", default="fp32", choices=["fp32", "fp16", "int8"])
    made.add_argument("--users", type=int, help=f"of the day (default {USERS:,})")
    parsed = made.parse_args()
    options = options_of(parsed)
    num_users = parsed.users or (QUICK_USERS if options.quick else USERS)
    recipe = replace(get_recipe(parsed.recipe), export=Export(tables=parsed.tables), inference=Inference(shards=1))
    options.home.mkdir(parents=True, exist_ok=True)
    with machine() as found, tempfile.TemporaryDirectory(dir=options.home) as name:
        world = World(recipe, num_users, Path(name))
        free = Free(world.embedder, most=USERS_PER_WINDOW)
        salts = iter(range(1_000))
        runs: dict[str, Callable[[], object]] = {
            "users_per_second": lambda: world.embed(DAYS[2], previous=world.previous, salt=str(next(salts))),
            "forward_users_per_second": bare(world),
            "tolist_users_per_second": predict(world, Path(name) / "tolist.parquet"),
            "feed_users_per_second": lambda: world.embed(
                DAYS[2], previous=world.previous, salt=str(next(salts)), embedder=free
            ),
            "tolist_feed_users_per_second": predict(world, Path(name) / "feed.parquet", embedder=free),
            "eager_users_per_second": predict(world, Path(name) / "eager.parquet", eager=True),
        }
        turns = [{what: rate(run, num_users) for what, run in runs.items()} for _ in range(1 + options.runs)][1:]

    def times(what: str, over: str = "users_per_second") -> float:
        return round(statistics.median(turn[over] / turn[what] for turn in turns), 3)

    finish(
        "batch_inference", options=options, recipe=recipe.name, tables=parsed.tables, users=num_users, machine=found,
        **{what: spread([turn[what] for turn in turns]) for what in runs},
        times_tolist=times("tolist_users_per_second"), times_eager=times("eager_users_per_second"),
        times_feed=times("tolist_feed_users_per_second", over="feed_users_per_second"),
        goal=GOAL, ratio=times("forward_users_per_second"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
