"""Vectors whose shift is known, and days of embeddings that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from numpy.typing import NDArray

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import DS
from snapshots.embeddings import embeddings_schema, fp16_exact, to_lists

Array = NDArray[np.float64]


def space(num_users: int, dim: int, *, seed: int = 0) -> Array:
    """[N, D], its dimensions correlated, of different spread and away from 0."""
    rng = np.random.default_rng([seed, dim])
    mix, mean = rng.normal(size=(dim, dim)), rng.normal(size=dim)
    return rng.normal(size=(num_users, dim)) @ mix + mean


def rotation(dim: int, *, seed: int = 0) -> Array:
    """[D, D], orthogonal."""
    turn: Array = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return turn


def embedded(num_users: int, *, num_embeddings: int = 2, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """[N, 2 K, D]: the computed vectors, and half of them as the pooled ones."""
    computed = [space(num_users, dim, seed=seed + 100 * k) for k in range(num_embeddings)]
    return fp16_exact(np.stack([*computed, *(vectors / 2 for vectors in computed)], axis=1).astype(np.float32))


def embeddings_of(
    ds: date, ids: NDArray[np.int64], vectors: NDArray[np.float32], *, num_pooled: NDArray[np.int64] | int = 2
) -> pa.Table:
    """Rows of `user_embeddings/tiny`; vectors [N, 2 K, D]."""
    num_users, num_columns, dim = vectors.shape
    schema = embeddings_schema(num_embeddings=num_columns // 2, dim=dim, model="tiny")
    when = datetime(ds.year, ds.month, ds.day, tzinfo=UTC)
    return pa.Table.from_arrays(
        [
            pa.array(ids),
            *(to_lists(vectors[:, place]) for place in range(num_columns)),
            pa.array(np.broadcast_to(np.asarray(num_pooled, np.int8), num_users)),
            pa.array(np.ones(num_users, np.int32)),
            pa.repeat(pa.scalar(when, schema.field("feature_time").type), num_users),
        ],
        schema=schema,
    )


def commit(lake: Lake, ds: date, rows: pa.Table, *, table: str = "user_embeddings/tiny") -> Partition:
    """As the day's partition, in one file."""
    key = fingerprint(ds, table, [str(column.combine_chunks().to_string()) for column in rows.columns[:2]])
    return lake.commit(table, ds, rows, fingerprint=key)


def commit_in_files(
    lake: Lake, ds: date, parts: Sequence[pa.Table], *, table: str = "user_embeddings/tiny"
) -> Partition:
    """As the day's partition, in a file per part."""
    first = commit(lake, ds, parts[0], table=table)
    for part in parts[1:]:
        column = pa.repeat(pa.scalar(ds.isoformat()), part.num_rows)
        write_deltalake(lake.uri(table), part.append_column(pa.field(DS, pa.string()), column), mode="append")
    delta = lake.open(table)
    assert delta is not None
    return Partition(table=table, ds=ds, version=delta.version(), fingerprint=first.fingerprint)
