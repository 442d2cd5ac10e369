"""A tiny planted world for the trainer's tests: users click the items of their own taste."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.arrow import examples_schema
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import DenseFeature, Schema, SparseFeature, Table
from features.source import LogReader
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer.recipe import Optimizer, Recipe, Schedule, Task

DAY = date(2026, 1, 1)

SCHEMA = Schema(
    tables=(
        Table(name="user", num_rows=500),
        Table(name="topic", num_rows=64),
        Table(name="item", num_rows=300),
    ),
    sparse=(
        SparseFeature(name="id", table="user"),
        SparseFeature(name="recent_topics", table="topic"),
        SparseFeature(name="recent_items", table="item"),
        SparseFeature(name="item", table="item", side="item"),
        SparseFeature(name="topic", table="topic", side="item"),
    ),
    dense=(
        DenseFeature(name="age", transform="log1p"),
        DenseFeature(name="activity"),
        DenseFeature(name="hour", side="item"),
    ),
    tasks=("click", "buy"),
)


@dataclass(frozen=True, kw_only=True)
class PlantedSource:
    """Its days are committed to the lake directly; it has no log."""

    name: str = "planted"
    schema: Schema = SCHEMA
    day_starts_at: timedelta = timedelta(0)

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        raise NotImplementedError("the planted source has no log")


def planted_recipe(**changes: object) -> Recipe:
    """A recipe of a few thousand parameters."""
    fields: dict[str, object] = {
        "name": "tiny",
        "source": PlantedSource(),
        "tasks": (Task(name="click"), Task(name="buy", weight=0.5)),
        "schedule": Schedule(start=DAY),
        "user_tower": tiny_user_tower(dim=16),
        "mix_tower": tiny_mix_tower(),
        "optimizer": Optimizer(sparse_lr=0.1, dense_lr=3e-3),
        "batch_size": 64,
        "seed": 7,
    }
    return Recipe(**(fields | changes))


def _lists(lists: list[np.ndarray]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])]).astype(np.int32)
    values = np.concatenate(lists).astype(np.int64) if lists else np.empty(0, dtype=np.int64)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def planted_examples(num_rows: int, *, seed: int, ds: date = DAY) -> pa.Table:
    """Examples in the layout of the lake; `activity` is the row number, unique."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 200, num_rows)
    taste = user % 8
    topic = np.where(rng.random(num_rows) < 0.4, taste, rng.integers(0, 8, num_rows))
    item = topic * 20 + rng.integers(0, 20, num_rows)
    click = rng.random(num_rows) < np.where(topic == taste, 0.8, 0.1)
    buy = click & (rng.random(num_rows) < 0.4)
    start = datetime(ds.year, ds.month, ds.day, tzinfo=UTC)
    columns = {
        "user_id": pa.array(user),
        "event_time": pa.array([start + timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 86_400, num_rows))]),
        "id": _lists([np.array([u]) for u in user]),
        "recent_topics": _lists([np.full(rng.integers(0, 4), t) for t in taste]),
        "recent_items": _lists([t * 20 + rng.integers(0, 20, rng.integers(0, 5)) for t in taste]),
        "item": _lists([np.array([i]) for i in item]),
        "topic": _lists([np.array([t]) for t in topic]),
        "age": pa.array(rng.integers(18, 80, num_rows)),
        "activity": pa.array(np.arange(num_rows) / max(num_rows, 1)),
        "hour": pa.array(rng.random(num_rows)),
        "click": pa.array(click.astype(np.int8)),
        "buy": pa.array(buy.astype(np.int8)),
    }
    layout = examples_schema(SCHEMA)
    return pa.table([columns[field.name].cast(field.type) for field in layout], schema=layout)


def commit_day(
    lake: Lake, ds: date, *, num_rows: int = 2000, seed: int | None = None, **columns: pa.Array
) -> Partition:
    """Commit the day's examples; `columns` replace generated ones."""
    table = planted_examples(num_rows, seed=ds.toordinal() if seed is None else seed, ds=ds)
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), values)
    content = fingerprint(ds, num_rows, seed, sorted(columns))
    return lake.commit("examples/planted", ds, table, fingerprint=content)
