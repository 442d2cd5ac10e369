"""The join of examples with the user embeddings as of the day before: nothing of the day itself is seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import count
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from features.batches import Batch, Encoder
from features.columns import Ids, column_of, places_in
from features.lake import Lake, Partition
from features.schema import USER_ID, Schema
from features.windows import pieces_of
from trainer.recipe import DownstreamRecipe, Recipe

log = logging.getLogger(__name__)

FEATURE_TIME = "feature_time"


class NoEmbeddingsError(ValueError):
    """No promoted embedding is old enough, and young enough, for the day: there is nothing to compare."""


def usable(promoted: Sequence[Partition], ds: date, *, table: str, lookback_days: int) -> tuple[Partition, ...]:
    """The partitions that examples of `ds` may see: ds - lookback_days <= partition.ds < ds; newest first.

    ValueError if one is of another table or a day stands twice.
    """
    days = [partition.ds for partition in promoted]
    for partition in promoted:
        if partition.table != table:
            raise ValueError(f"{partition.table} ds={partition.ds} was given; this model joins {table}")
        if days.count(partition.ds) > 1:
            raise ValueError(f"{table} ds={partition.ds} was given twice; name one version of a day")
    first = ds - timedelta(days=lookback_days)
    return tuple(sorted((p for p in promoted if first <= p.ds < ds), key=lambda p: p.ds, reverse=True))


def usable_of(
    downstream: DownstreamRecipe, ds: date, *, promoted: Mapping[str, Sequence[Partition]]
) -> tuple[tuple[Partition, ...], ...]:
    """`usable` of each of its user models, of which all but one may have nothing yet.

    NoEmbeddingsError where none has: there is nothing to compare.
    """
    tables = [f"user_embeddings/{name}" for name in downstream.upstreams]
    days = downstream.lookback_days
    found = tuple(
        usable(promoted.get(name, ()), ds, table=table, lookback_days=days)
        for name, table in zip(downstream.upstreams, tables, strict=True)
    )
    if not any(found):
        given = sorted({str(partition.ds) for name in downstream.upstreams for partition in promoted.get(name, ())})
        raise NoEmbeddingsError(
            f"no promoted partition of {' or '.join(tables)} lies in [{ds - timedelta(days=days)}, {ds}) "
            f"(given: {given}); promote the embeddings of a day before {ds} first"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class NewestEmbeddings:
    """The newest pooled embeddings of each user."""

    user_ids: npt.NDArray[np.int64]
    """[U], ascending."""
    vectors: npt.NDArray[np.float16] | npt.NDArray[np.float32]
    """[U, K, D]: stored vectors are fp16-exact."""
    age_days: npt.NDArray[np.int64]
    """[U]: days between the embedding's day and the examples'."""

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, K, D] float32 and flags [N, 1] float32; zeros for users without."""
        position, found = places_in(self.user_ids, keys)
        vectors = self.vectors.take(position, axis=0) if self.user_ids.size else self._zeros(keys.size)
        vectors[~found] = 0
        return torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(found.astype(np.float32)).unsqueeze(1)

    def _zeros(self, size: int) -> npt.NDArray[np.float16]:
        return np.zeros((size, *self.vectors.shape[1:]), dtype=np.float16)


def newest_embeddings(
    lake: Lake,
    partitions: Sequence[Partition],
    *,
    ds: date,
    day_starts_at: timedelta,
    users: npt.NDArray[np.int64],
    num_embeddings: int,
    dim: int,
) -> NewestEmbeddings:
    """For each of `users`, the pooled embeddings of the newest of `partitions` (newest first; there may be none) that
    has them.

    Reads ids first, then the vectors of the row groups that have a wanted user: time is linear in the partitions,
    memory is one fp16 matrix of the joined users and one row group.
    ValueError for a table without K pooled columns of D, or one that holds features of the day itself.
    """
    assert all(partition.ds < ds for partition in partitions), f"an embedding of {ds} or later would leak"
    start = datetime.combine(ds, datetime.min.time()) + day_starts_at
    columns = [f"pooled_{k}" for k in range(num_embeddings)]
    wanted = np.unique(users)
    listed = [_wanted_ids(lake, partition, wanted, columns, start) for partition in partitions]
    ids, first = np.unique(np.concatenate([*listed, np.empty(0, dtype=np.int64)]), return_index=True)
    bounds = np.cumsum([0, *(part.size for part in listed)])
    owner = np.searchsorted(bounds, first, side="right") - 1  # [U]: which partition has the newest vectors
    vectors = np.zeros((ids.size, num_embeddings, dim), dtype=np.float16)
    for index, partition in enumerate(partitions):
        if not (owner == index).any():
            continue
        for piece in pieces_of(lake.dataset(partition)):
            position, found = places_in(ids, _ids_of(piece.read([USER_ID])))
            keep = np.flatnonzero(found & (owner[position] == index))
            if not keep.size:
                continue
            rows = piece.read(columns).take(pa.array(keep))
            for k, name in enumerate(columns):
                vectors[position[keep], k] = _matrix(column_of(rows, name), dim, partition, name)
    ages = np.array([(ds - partition.ds).days for partition in partitions], dtype=np.int64)
    return NewestEmbeddings(user_ids=ids, vectors=vectors, age_days=ages[owner] if partitions else ids)


def join_upstreams(
    lake: Lake,
    upstreams: Sequence[Recipe],
    partitions: Sequence[Sequence[Partition]],
    *,
    ds: date,
    users: npt.NDArray[np.int64],
) -> tuple[NewestEmbeddings, ...]:
    """`newest_embeddings` of each user model. partitions: of each, as `usable_of` gives them."""
    return tuple(
        newest_embeddings(
            lake,
            of_model,
            ds=ds,
            day_starts_at=upstream.source.day_starts_at,
            users=users,
            num_embeddings=upstream.user_tower.num_embeddings,
            dim=upstream.user_tower.dim,
        )
        for upstream, of_model in zip(upstreams, partitions, strict=True)
    )


def _wanted_ids(
    lake: Lake, partition: Partition, users: npt.NDArray[np.int64], columns: list[str], start: datetime
) -> npt.NDArray[np.int64]:
    """The partition's user ids that are in `users` (ascending), after a look at its columns and times."""
    dataset = lake.dataset(partition)
    missing = [name for name in (USER_ID, *columns) if name not in dataset.schema.names]
    if missing:
        raise ValueError(f"{partition.table} ds={partition.ds} lacks {missing}; the upstream recipe promises them")
    timed = [FEATURE_TIME] if FEATURE_TIME in dataset.schema.names else []
    kept = [np.empty(0, dtype=np.int64)]
    for piece in pieces_of(dataset):
        rows = piece.read([USER_ID, *timed])
        latest = pc.max(rows.column(FEATURE_TIME)).as_py() if timed else None
        if latest is not None and latest.replace(tzinfo=None) > start:
            raise ValueError(
                f"{partition.table} ds={partition.ds} holds features of {latest}, but the examples' "
                f"day begins at {start}: training on them would leak"
            )
        ids = _ids_of(rows)
        kept.append(ids[places_in(users, ids)[1]])
    return np.concatenate(kept)


def _ids_of(rows: pa.Table) -> Ids:
    ids: Ids = rows.column(USER_ID).to_numpy()
    return ids


def _matrix(column: pa.Array, dim: int, partition: Partition, name: str) -> npt.NDArray[np.float32]:
    """A list column as [rows, dim]."""
    values = column.flatten()
    if column.null_count or values.null_count or len(values) != len(column) * dim:
        raise ValueError(f"{partition.table} ds={partition.ds}: {name} is not a vector of {dim} numbers in every row")
    matrix: npt.NDArray[np.float32] = values.to_numpy().reshape(len(column), dim)
    return matrix


class Lookup(Protocol):
    """Whatever can be asked for the embeddings behind a key."""

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, K, D] float32 and flags [N, U] float32, 0 or 1; zeros where there is nothing."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The embeddings of several user models, one after the other; the shorter vectors end in zeros."""

    parts: tuple[Lookup, ...]

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, sum of K, largest D] and flags [N, U]."""
        found = [part.lookup(keys) for part in self.parts]
        dim = max(vectors.shape[2] for vectors, _ in found)
        vectors = [nn.functional.pad(of, (0, dim - of.shape[2])) for of, _ in found]
        return torch.cat(vectors, dim=1), torch.cat([flags for _, flags in found], dim=1)


@dataclass(kw_only=True)
class JoinedBatch(Batch):
    """A batch with what each arm joins. Padding rows have weight 0, and zeros; the keys are shorter by them."""

    user_ids: Ids
    """[N] of the N examples."""
    keys: Ids
    """[N]: what was looked up."""
    joined: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """By arm: vectors [B, K, D] and flags [B, U], float32."""


class JoiningEncoder(Encoder):
    """An encoder that joins each example's user embeddings, for each arm its own."""

    def __init__(
        self, schema: Schema, *, task: str, features: frozenset[str], embeddings: Mapping[str, Lookup]
    ) -> None:
        super().__init__(schema, tasks=(task,), features=features)
        self._embeddings = embeddings

    @property
    def columns(self) -> list[str]:
        """The columns that `encode` needs."""
        return [USER_ID, *super().columns]

    def keys(self, rows: pa.RecordBatch | pa.Table) -> Ids:
        """[rows]: what is looked up; the user ids."""
        ids: Ids = rows.column(USER_ID).to_numpy()
        return ids

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[JoinedBatch]:
        """`rows` in this `order`, joined, in batches of `batch_size`."""
        plain = super().batches(rows, order=order, batch_size=batch_size)
        users, keys = rows.column(USER_ID).to_numpy()[order], self.keys(rows)[order]
        parts = (slice(index * batch_size, (index + 1) * batch_size) for index in count())
        return (self._join(batch, users[part], keys[part]) for batch, part in zip(plain, parts, strict=False))

    def _join(self, batch: Batch, user_ids: Ids, keys: Ids) -> JoinedBatch:
        padding = batch.weights.shape[0] - keys.size

        def padded(values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, values.new_zeros(padding, *values.shape[1:])]) if padding else values

        found = {arm: lookup.lookup(keys) for arm, lookup in self._embeddings.items()}
        joined = {arm: (padded(vectors), padded(flags)) for arm, (vectors, flags) in found.items()}
        return JoinedBatch(**vars(batch), user_ids=user_ids, keys=keys, joined=joined)
