"""A tiny world with planted tastes in a real lake: users like items whose vector is near theirs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import TIME, examples_schema
from features.lake import Lake, Partition
from features.schema import DenseFeature, Schema, SparseFeature, Table
from features.source import LogReader
from infra.settings import Settings
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer.recipe import DownstreamRecipe, Optimizer, Recipe, Schedule, Task

FIRST = date(2026, 1, 1)
TASTES = 4
SCHEMA = Schema(
    tables=(Table(name="items", num_rows=64), Table(name="context", num_rows=16)),
    sparse=(
        SparseFeature(name="history", table="items"),
        SparseFeature(name="hour", table="context"),
        SparseFeature(name="item", table="items", side="item"),
        SparseFeature(name="slot", table="context", side="item"),
    ),
    dense=(DenseFeature(name="age"), DenseFeature(name="price", side="item", transform="log1p")),
    tasks=("click", "buy"),
)
TOWER = tiny_user_tower(dim=8)


@dataclass(frozen=True, kw_only=True)
class TinySource:
    """Its days are committed by the tests; there is no log to read."""

    name: str = "tiny"
    schema: Schema = SCHEMA
    day_starts_at: timedelta = timedelta(hours=3)

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        raise NotImplementedError


UPSTREAM = Recipe(
    name="tiny",
    source=TinySource(),
    tasks=(Task(name="click"),),
    schedule=Schedule(start=FIRST),
    user_tower=TOWER,
    mix_tower=tiny_mix_tower(),
)
CTR = DownstreamRecipe(
    name="tiny_ctr",
    upstreams=("tiny",),
    task="click",
    user_features=("hour",),
    embedding_dim=8,
    hidden=(32, 16),
    optimizer=Optimizer(sparse_lr=0.1, dense_lr=5e-3),
    batch_size=256,
)


def day(index: int) -> date:
    """The index-th day, from 0."""
    return FIRST + timedelta(days=index)


@dataclass(frozen=True, kw_only=True)
class World:
    """Users, items and what they like; writes days of examples and embeddings."""

    settings: Settings
    num_users: int = 500
    num_items: int = 40
    examples_per_day: int = 8_000
    tastes: npt.NDArray[np.float64] = field(init=False)
    items: npt.NDArray[np.float64] = field(init=False)
    user_ids: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(1)
        object.__setattr__(self, "tastes", rng.normal(size=(self.num_users, TASTES)))
        object.__setattr__(self, "items", rng.normal(size=(self.num_items, TASTES)))
        object.__setattr__(self, "user_ids", rng.permutation(10 * self.num_users)[: self.num_users].astype(np.int64))

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake)

    def commit_examples(self, ds: date, *, seed: int = 0) -> Partition:
        """A day of clicks."""
        rng = np.random.default_rng([ds.toordinal(), seed])
        size = self.examples_per_day
        users, items = rng.integers(self.num_users, size=size), rng.integers(self.num_items, size=size)
        logits = 1.5 * np.einsum("bt,bt->b", self.tastes[users], self.items[items]) - 1
        labels = rng.random(size) < 1 / (1 + np.exp(-logits))
        columns = {
            "user_id": pa.array(self.user_ids[users]),
            "event_time": pa.array([datetime.combine(ds, datetime.min.time(), UTC)] * size, TIME),
            "history": lists(rng.integers(1_000, size=2 * size), 2),
            "hour": lists(rng.integers(24, size=size), 1),
            "item": lists(items, 1),
            "slot": lists(rng.integers(3, size=size), 1),
            "age": pa.array(rng.normal(size=size), pa.float32()),
            "price": pa.array(rng.random(size), pa.float32()),
            "click": pa.array(labels, pa.int8()),
            "buy": pa.array(np.zeros(size), pa.int8()),
        }
        table = pa.table(columns, schema=examples_schema(SCHEMA))
        return self.lake.commit("examples/tiny", ds, table, fingerprint=f"{seed + 1:0<64x}")

    def commit_embeddings(
        self, ds: date, *, permuted: bool = False, share: float = 0.8, late: timedelta = timedelta(0)
    ) -> Partition:
        """Pooled embeddings that hold the tastes of the first `share` of the users, mixed linearly."""
        rng = np.random.default_rng(2)
        mixed = self.tastes @ rng.normal(size=(TASTES, TOWER.num_embeddings * TOWER.dim))
        vectors = mixed[rng.permutation(self.num_users)] if permuted else mixed
        known = int(share * self.num_users)
        table = embeddings_table(self.user_ids[:known], vectors[:known], end_of(ds) + late)
        return self.lake.commit("user_embeddings/tiny", ds, table, fingerprint=f"{int(permuted) + 1:0<64x}")


def end_of(ds: date) -> datetime:
    """The first instant after `ds`, which begins at 03:00 UTC."""
    return datetime.combine(ds, datetime.min.time(), UTC) + timedelta(days=1, hours=3)


def embeddings_table(
    user_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float64], feature_time: datetime
) -> pa.Table:
    """`vectors` [U, K * D] as `user_embeddings`; the computed ones are NaN: nobody may join them."""
    exact = vectors.astype(np.float16).astype(np.float32)
    pooled = np.split(exact, TOWER.num_embeddings, axis=1)
    size = len(user_ids)
    return pa.table(
        {
            "user_id": pa.array(user_ids),
            **{f"embedding_{k}": lists(np.full_like(v, np.nan).ravel(), TOWER.dim) for k, v in enumerate(pooled)},
            **{f"pooled_{k}": lists(v.ravel(), TOWER.dim) for k, v in enumerate(pooled)},
            "num_pooled": pa.array(np.ones(size), pa.int8()),
            "version": pa.array(np.ones(size), pa.int32()),
            "feature_time": pa.array([feature_time] * size, TIME),
        }
    )


def lists(values: npt.NDArray[np.generic], length: int) -> pa.Array:
    """Lists of equal length."""
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def variant(**changes: object) -> DownstreamRecipe:
    """CTR, changed."""
    return replace(CTR, **changes)  # type: ignore[arg-type]
