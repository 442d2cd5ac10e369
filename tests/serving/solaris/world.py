"""A foundation model that is a formula, its catalogue, users with features, and what the store should hold of pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.schema import DenseFeature, Schema, SparseFeature, Table
from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.keys import Keys
from serving.solaris.interfaces import Likely
from serving.solaris.model import PairModel
from serving.solaris.precompute import Precompute
from serving.solaris.queue import PairQueue
from serving.solaris.statistics import WORKER
from serving.solaris.store import PairStore, Represented
from serving.solaris.worker import Options, Worker

WIDTH = 4
MODEL = PairModel(name="fm", source="s", width=WIDTH, deadline_ms=5_000.0)
SCHEMA = Schema(
    tables=(Table(name="items", num_rows=100),),
    sparse=(SparseFeature(name="clicked", table="items", side="user"),),
    dense=(DenseFeature(name="age", side="user"),),
    tasks=("click",),
)
CODEC = FeatureCodec(SCHEMA)
NOW_MS = int(1000 * time.time())
QUICK = Options(most_pairs=16, poll_seconds=0.005)


def vector(user: int, item: int) -> list[float]:
    """What the formula says of a pair; float16 holds it."""
    return [float(user % 100), float(item % 100), 1.0, 0.5]


@dataclass
class Formula:
    """A foundation model. before: is given the pairs of each batch, and may fail."""

    version: int = 1
    width: int = WIDTH
    before: Callable[[list[tuple[int, int]]], None] = lambda pairs: None
    batches: list[list[tuple[int, int]]] = field(default_factory=list)

    def represent(self, user_rows: pa.RecordBatch, item_rows: pa.RecordBatch) -> NDArray[np.float32]:
        users, items = user_rows.column("user_id").to_pylist(), item_rows.column("item_id").to_pylist()
        pairs = list(zip(users, items, strict=True))
        self.batches.append(pairs)
        self.before(pairs)
        return np.array([vector(*pair) for pair in pairs], np.float32)


class Shelf:
    """A catalogue of the items 0 to 999."""

    def known(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (items >= 0) & (items < 1_000)

    def rows(self, items: NDArray[np.int64]) -> pa.RecordBatch:
        assert self.known(items).all()
        return pa.record_batch({"item_id": pa.array(items, pa.int64())})


def give_features(store: PairStore, users: Sequence[int], *, feature_ms: int = NOW_MS) -> None:
    """As a request leaves them in the feature store."""
    payload = CODEC.encode({"clicked": [1, 2], "age": 30.0})
    with store.redis.pipeline(transaction=False) as pipeline:
        for user in users:
            name = store.keys.keys.features(store.model.source, user)
            pipeline.set(name, feature_ms.to_bytes(8, "little", signed=True) + payload)
        pipeline.execute()


def write(
    store: PairStore,
    user: int,
    *items: int,
    feature_ms: int = NOW_MS,
    version: int = 1,
    priority: float = 1.0,
    value: float | None = None,
) -> tuple[int, int]:
    """Representations of the user with these items: the formula's, or of one value; how many were kept, refused."""
    vectors = [vector(user, item) if value is None else [value] * store.model.width for item in items]
    written = store.write(
        Represented.of(
            [Likely(user, item, priority) for item in items],
            np.array(vectors, np.float16),
            version=version,
            feature_ms=np.full(len(items), feature_ms),
        )
    )
    return written.kept, written.future


def kept(store: PairStore, user: int) -> list[tuple[int, int, int, float, float]]:
    """(item, feature time, version, priority, first number) in the record's order."""
    found = store.read(user)
    return [] if found is None else [
        (int(e["member"]), int(e["feature_ms"]), int(e["version"]), float(e["priority"]), float(e["vector"][0]))
        for e in found.entries
    ]  # fmt: skip


def with_model(store: PairStore, **changes: object) -> PairStore:
    """The same store under another policy."""
    return PairStore(store.redis, replace(store.model, **changes), store.keys.keys)  # type: ignore[arg-type]


def queue_of(store: PairStore) -> PairQueue:
    return PairQueue(store.redis, store.model, store.keys.keys, range(store.keys.keys.partitions))


def worker_of(store: PairStore, foundation: Formula, options: Options = QUICK) -> Worker:
    statistics = Statistics(WORKER)
    precompute = Precompute(foundation, Shelf(), CODEC, statistics)
    return Worker(queue_of(store), store, precompute, options=options, statistics=statistics)


ONE, SIXTEEN = Keys(), Keys(16)
