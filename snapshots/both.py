"""One sample of the day's users through a version's snapshot and through another tower."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from features.hashing import mixed
from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embedder import ROWS_PER_BATCH, embedder_of, one_thread
from snapshots.registry import Version
from snapshots.shift.ordered import SAMPLE_USERS, batches, lowest_hashes

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NotComparableError(ValueError):
    """The version's snapshot and the other tower do not take the same users to spaces of one shape."""


class Embeds(Protocol):
    """What an `Embedder` is."""

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""

    def embed(self, rows: pa.RecordBatch) -> NDArray[np.float32]:
        """[B, K, D]."""


def embed_by_both(
    lake: Lake, users: Partition, *, before: Version, after: Embeds
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The sample by the snapshot of `before` and by `after`, [N, K, D] each.

    NotComparableError where the schema or the tower changed so much that the snapshot cannot embed the day.
    """
    named = f"version {before.number} of {before.ds}"
    try:
        earlier = embedder_of(before)
    except (OSError, ValueError) as error:
        raise NotComparableError(f"{named} cannot be used: {error}") from error
    columns = sorted({*earlier.columns, *after.columns})
    if missing := sorted(set(columns) - set(lake.dataset(users).schema.names)):
        raise NotComparableError(f"{named} reads {missing}, which the day lacks")
    vectors_before, vectors_after, hashes = [], [], []
    with one_thread():
        for rows in _sample(lake, users, columns):
            gone = [name for name in earlier.columns if name not in after.columns and rows.column(name).null_count]
            if gone:  # a column stays in the table when its feature went; the snapshot would read nulls as nothing
                raise NotComparableError(f"{named} reads {gone}, which the day lacks")
            hashes.append(mixed(rows.column(USER_ID).to_numpy()))
            vectors_after.append(after.embed(rows))
            try:
                vectors_before.append(earlier.embed(rows))
            except ValueError as error:
                raise NotComparableError(f"{named} cannot embed the day's users: {error}") from error
    a, b = np.concatenate(vectors_before), np.concatenate(vectors_after)
    if a.shape != b.shape:
        raise NotComparableError(
            f"{named} gives {a.shape[1]} embeddings of {a.shape[2]}, the day's {b.shape[1]} of {b.shape[2]}"
        )
    order = np.argsort(np.concatenate(hashes))  # no number depends on the order of the table's rows
    return a[order], b[order]


def _sample(lake: Lake, users: Partition, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Up to SAMPLE_USERS of the day's users, the same ones each time: those whose ids hash lowest."""
    dataset = lake.dataset(users)
    last = lowest_hashes(dataset, SAMPLE_USERS)
    for rows in batches(dataset, [USER_ID, *columns], rows=ROWS_PER_BATCH):
        sampled = rows.filter(pa.array(mixed(rows.column(USER_ID).to_numpy()) <= last))
        if sampled.num_rows:
            yield sampled
