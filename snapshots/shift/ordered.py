"""A day's embeddings in the order of their users' hashes, in bounded memory: so that two days can be joined, and a
sample of users is a first part.

The order depends on the ids alone, so no number depends on how a partition's rows were ordered or cut into files.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from features.hashing import mixed
from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embeddings import NUM_POOLED, POOLINGS, to_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_USERS = 20_000
"""Of a day, those whose hashes are lowest: what is sampled is measured on them."""
BUCKET_BYTES = 16 * 2**20
"""Of one day's rows that are in memory at a time, about."""
_BATCH_ROWS = 16_384
_READ_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is read of a table of embeddings: V = 2 K columns of D floats."""

    num_embeddings: int
    dim: int

    @property
    def columns(self) -> list[str]:
        """The computed vectors, then the pooled ones."""
        return [f"{prefix}_{k}" for prefix in POOLINGS for k in range(self.num_embeddings)]

    @property
    def row(self) -> np.dtype[Any]:
        """Of one user."""
        return np.dtype(
            [("id", np.int64), ("num_pooled", np.int64), ("vectors", np.float32, (len(self.columns), self.dim))]
        )


@dataclass(frozen=True, kw_only=True)
class Users:
    """Some users of one day, in the order of their hashes."""

    hashes: NDArray[np.uint64]
    """[N], ascending."""
    rows: NDArray[Any]
    """[N] of `Layout.row`."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """[N]."""
        ids: NDArray[np.int64] = self.rows["id"]
        return ids

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[N, V, D]."""
        vectors: NDArray[np.float32] = self.rows["vectors"]
        return vectors

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, which: slice | NDArray[Any]) -> Users:
        return Users(hashes=self.hashes[which], rows=self.rows[which])


def concatenated(parts: Sequence[Users]) -> Users:
    """Of parts that follow each other in the order of hashes; at least one."""
    return Users(
        hashes=np.concatenate([part.hashes for part in parts]), rows=np.concatenate([part.rows for part in parts])
    )


def common(before: Users, after: Users) -> tuple[Users, Users]:
    """The users of both, in both."""
    _, rows_before, rows_after = np.intersect1d(before.hashes, after.hashes, assume_unique=True, return_indices=True)
    return before[rows_before], after[rows_after]


def num_buckets(lake: Lake, partitions: Sequence[Partition], layout: Layout) -> int:
    """How many parts keep any of the partitions' parts at about BUCKET_BYTES."""
    num_rows = max(int(lake.dataset(partition).count_rows()) for partition in partitions)
    return max(math.ceil(num_rows * layout.row.itemsize / BUCKET_BYTES), 1)


class Spool:
    """One day in a temporary file, its rows grouped by the first bits of their hashes. A context manager.

    ValueError, OSError or DamagedTableError: the partition cannot be read.
    """

    def __init__(self, lake: Lake, partition: Partition, layout: Layout, *, buckets: int) -> None:
        self._layout, self._buckets, self._name = layout, buckets, f"{partition.table} {partition.ds}"
        dataset = lake.dataset(partition)
        self._counts = np.zeros(buckets, dtype=np.int64)
        for batch in batches(dataset, [USER_ID]):
            hashes = mixed(batch.column(USER_ID).to_numpy())
            self._counts += np.bincount(self._bucket_of(hashes), minlength=buckets)
        self._starts = np.cumsum(self._counts) - self._counts
        with ExitStack() as stack:
            self._file = stack.enter_context(tempfile.TemporaryFile(prefix="usermodel-shift-"))
            self._write(dataset)
            stack.pop_all()

    @property
    def num_users(self) -> int:
        """All of them."""
        return int(self._counts.sum())

    def read(self, bucket: int) -> Users:
        """The bucket's users. ValueError for one that is listed twice."""
        row = self._layout.row
        self._file.seek(int(self._starts[bucket]) * row.itemsize)
        rows = np.frombuffer(self._file.read(int(self._counts[bucket]) * row.itemsize), dtype=row)
        hashes = mixed(rows["id"])
        order = np.argsort(hashes)
        users = Users(hashes=hashes[order], rows=rows[order])
        twice = users.hashes[1:] == users.hashes[:-1]
        if twice.any():
            raise ValueError(f"{self._name} has user {users.ids[1:][twice][0]} twice; the partition is damaged")
        return users

    def users(self) -> Iterator[Users]:
        """Bucket by bucket."""
        return (self.read(bucket) for bucket in range(self._buckets))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, dataset: pads.Dataset) -> None:
        row, free = self._layout.row, self._starts.copy()
        for batch in batches(dataset, [USER_ID, NUM_POOLED, *self._layout.columns]):
            rows = self._rows(batch)
            buckets = self._bucket_of(mixed(rows["id"]))
            order = np.argsort(buckets, kind="stable")
            rows, ends = rows[order], np.cumsum(np.bincount(buckets, minlength=self._buckets))
            for bucket in np.flatnonzero(np.diff(ends, prepend=0)):
                end, begin = ends[bucket], ends[bucket - 1] if bucket else 0
                self._file.seek(int(free[bucket]) * row.itemsize)
                self._file.write(rows[begin:end].data)
                free[bucket] += end - begin

    def _rows(self, batch: pa.RecordBatch) -> NDArray[Any]:
        rows = np.empty(batch.num_rows, dtype=self._layout.row)
        rows["id"] = batch.column(USER_ID).to_numpy()
        rows["num_pooled"] = batch.column(NUM_POOLED).to_numpy()
        for place, column in enumerate(self._layout.columns):
            rows["vectors"][:, place] = to_vectors(batch.column(column), dim=self._layout.dim)
        return rows

    def _bucket_of(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Ascending with the hash."""
        return (((hashes >> np.uint64(32)) * np.uint64(self._buckets)) >> np.uint64(32)).astype(np.int64)


def batches(dataset: pads.Dataset, columns: list[str], *, rows: int | None = None) -> Iterator[pa.RecordBatch]:
    """Of about so many rows, in memory that does not grow with the files: Arrow would hold a whole one."""
    yield from dataset.to_batches(
        columns=columns,
        batch_size=rows or _BATCH_ROWS,
        batch_readahead=_READ_AHEAD,
        fragment_readahead=1,
        fragment_scan_options=pads.ParquetFragmentScanOptions(pre_buffer=False),
    )


def lowest_hashes(dataset: pads.Dataset, size: int) -> np.uint64:
    """The `size`-th lowest hash of the users, or the highest of fewer: up to it they are the sample."""
    lowest = np.empty(0, dtype=np.uint64)
    for batch in batches(dataset, [USER_ID]):
        lowest = np.concatenate([lowest, mixed(batch.column(USER_ID).to_numpy())])
        if len(lowest) > size:
            lowest = np.partition(lowest, size - 1)[:size]
    return lowest.max() if len(lowest) else np.uint64(0)
