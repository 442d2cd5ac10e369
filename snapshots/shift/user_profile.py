"""The user features of one day in a few numbers per feature: one pass, bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.columns import column_of
from features.hashing import mixed
from features.packing import unpack
from features.schema import USER_ID, Schema, packed_columns
from snapshots.embedder import ROWS_PER_BATCH
from snapshots.shift.id_sketch import IdSketch
from snapshots.shift.ordered import SAMPLE_USERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from features.lake import Lake, Partition

SAMPLE_VALUES = 2**24
"""The values of at most so many (user, feature) pairs are kept: of a wide schema, those of fewer users."""
_STEP = np.int64(-7046029254386353131)  # odd: the same id at another place of the list is another value


@dataclass(kw_only=True)
class ListProfile:
    """One feature of id lists. values: of each sampled user the list's hash, 0 for an empty one."""

    num_present: int = 0
    num_ids: int = 0
    ids: IdSketch = field(default_factory=IdSketch)
    values: list[NDArray[np.uint64]] = field(default_factory=list)

    def add(self, column: pa.Array, sampled: NDArray[np.bool_]) -> None:
        """More users. A null list is an empty one."""
        lengths: NDArray[np.int64] = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        ids: NDArray[np.int64] = column.flatten().to_numpy(zero_copy_only=False)
        self.num_present += int((lengths > 0).sum())
        self.num_ids += len(ids)
        self.ids.add(ids)
        self.values.append(hash_lists(ids, lengths)[sampled])


@dataclass(kw_only=True)
class NumberProfile:
    """One dense feature. values: of each sampled user, NaN for null. A value counts where it is finite."""

    num_present: int = 0
    num_zeros: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    values: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, column: pa.Array, sampled: NDArray[np.bool_]) -> None:
        """More users."""
        numbers: NDArray[np.float32] = column.to_numpy(zero_copy_only=False).astype(np.float32)
        found = numbers[np.isfinite(numbers)].astype(np.float64)
        self.num_present += len(found)
        self.num_zeros += int((found == 0).sum())
        self.total += float(found.sum())
        self.total_squares += float(np.square(found).sum())
        self.values.append(numbers[sampled])

    @property
    def mean(self) -> float:
        """Of the present values; 0 where there is none."""
        return self.total / self.num_present if self.num_present else 0.0

    @property
    def std(self) -> float:
        """Standard deviation of the present values."""
        return math.sqrt(max(self.total_squares / max(self.num_present, 1) - self.mean**2, 0.0))


@dataclass(frozen=True, kw_only=True)
class UserProfile:
    """The user features of one day. sampled: the sampled users' ids, [S], as `values` of every feature has them."""

    num_users: int
    ids: NDArray[np.int64]
    """Of all users, sorted."""
    sampled: NDArray[np.int64]
    lists: Mapping[str, ListProfile]
    numbers: Mapping[str, NumberProfile]

    def values_of(self, feature: str) -> NDArray[np.uint64] | NDArray[np.float32]:
        """The sampled users' values, [S]."""
        if feature in self.lists:
            return np.concatenate([*self.lists[feature].values, np.empty(0, dtype=np.uint64)])
        return np.concatenate([*self.numbers[feature].values, np.empty(0, dtype=np.float32)])


def profile_users(lake: Lake, users: Partition, schema: Schema) -> UserProfile:
    """One pass over a partition of user features; a feature that the day has no column for is left out.

    The sample is of the users whose ids hash lowest, so that two days sample the same people.
    """
    dataset = lake.dataset(users)
    ids = np.sort(lake.read(users, columns=[USER_ID]).column(USER_ID).to_numpy())
    highest = _highest_sampled(ids, schema)
    packed = set(packed_columns("user")) & set(dataset.schema.names)
    known = [*(f.name for f in schema.sparse_of("user")), *(f.name for f in schema.dense_of("user"))]
    columns = [name for name in dataset.schema.names if name in packed or name in known]
    lists: dict[str, ListProfile] = {}
    numbers: dict[str, NumberProfile] = {}
    sampled: list[NDArray[np.int64]] = []
    for batch in dataset.to_batches(columns=[USER_ID, *columns], batch_size=ROWS_PER_BATCH):
        of_batch = batch.column(USER_ID).to_numpy()
        chosen = mixed(of_batch) <= highest
        sampled.append(of_batch[chosen])
        for name, column in _features(batch, known):
            if pa.types.is_list(column.type):
                lists.setdefault(name, ListProfile()).add(column, chosen)
            else:
                numbers.setdefault(name, NumberProfile()).add(column, chosen)
    return UserProfile(
        num_users=len(ids),
        ids=ids,
        sampled=np.concatenate(sampled) if sampled else ids,
        lists=lists,
        numbers=numbers,
    )


def _highest_sampled(ids: NDArray[np.int64], schema: Schema) -> np.uint64:
    """The highest hash of a sampled user."""
    num_features = len(schema.sparse_of("user")) + len(schema.dense_of("user"))
    size = max(min(SAMPLE_USERS, SAMPLE_VALUES // max(num_features, 1)), 1)
    if len(ids) <= size:
        return np.uint64(2**64 - 1)
    return np.uint64(np.partition(mixed(ids), size - 1)[size - 1])


def _features(batch: pa.RecordBatch, known: list[str]) -> Iterator[tuple[str, pa.Array]]:
    rows = unpack(pa.Table.from_batches([batch]))
    return ((name, column_of(rows, name)) for name in known if name in rows.schema.names)


def hash_lists(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Of each list, [N], a hash of its ids in their order; 0 for an empty one alone."""
    hashes = np.zeros(len(lengths), dtype=np.uint64)
    present = lengths > 0
    if not present.any():
        return hashes
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(ids)) - np.repeat(starts, lengths)
    hashes[present] = np.add.reduceat(mixed(ids + places * _STEP), starts[present]) | np.uint64(1)
    return hashes
