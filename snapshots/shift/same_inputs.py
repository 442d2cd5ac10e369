"""The model alone: the same rows of user features through the parent's snapshot and the day's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.hashing import hash_ids
from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.inference import ROWS_PER_BATCH, Embedder, embedder_of, one_thread
from snapshots.movement import movement
from snapshots.registry import Version
from snapshots.shift.pair import Compared
from snapshots.shift.rows import NOT_POOLED, ShiftRow, predecessor, statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

SAMPLE_USERS = 20_000


def same_inputs(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """The model alone: the same rows of user features through the parent's snapshot and the candidate's."""
    number = pair.version.number
    if pair.parent is None:
        yield predecessor(number, "same_inputs", found=False, num_users=0)
        return
    after = embedder_of(pair.version)
    try:
        a, b = _embed_by_both(pair, pair.parent, after, lake)  # [N, K, D]
    except _NotComparableError as error:
        log.warning("shift not comparable model=%s ds=%s: %s", recipe.name, pair.version.ds, error)
        yield predecessor(number, "same_inputs", found=False, num_users=0, note=str(error))
        return
    yield predecessor(number, "same_inputs", found=True, num_users=len(a))
    for k in range(a.shape[1]):
        yield from statistics(number, "same_inputs", movement(a[:, k], b[:, k]), embedding=k, pooling=NOT_POOLED)


class _NotComparableError(ValueError):
    """The parent's snapshot and the day's do not take the same users to the same space."""


def _embed_by_both(
    pair: Compared, parent: Version, after: Embedder, lake: Lake
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The sample by the parent's snapshot and by the day's, [N, K, D] each.

    _NotComparableError where the schema or the tower changed so much that the parent's cannot embed the day.
    """
    try:
        before = embedder_of(parent)
    except (OSError, ValueError) as error:
        raise _NotComparableError(f"version {parent.number} of {parent.ds} cannot be used: {error}") from error
    columns = sorted({*before.columns, *after.columns})
    if missing := sorted(set(columns) - set(lake.dataset(pair.users).schema.names)):
        raise _NotComparableError(f"version {parent.number} of {parent.ds} reads {missing}, which the day lacks")
    vectors_before, vectors_after = [], []
    with one_thread():
        for rows in _sample(lake, pair.users, columns):
            gone = [name for name in before.columns if name not in after.columns and rows.column(name).null_count]
            if gone:  # a column stays in the table when its feature went; the parent would read nulls as nothing
                raise _NotComparableError(f"version {parent.number} of {parent.ds} reads {gone}, which the day lacks")
            vectors_after.append(after.embed(rows))
            try:
                vectors_before.append(before.embed(rows))
            except ValueError as error:
                raise _NotComparableError(
                    f"version {parent.number} of {parent.ds} cannot embed the day's users: {error}"
                ) from error
    a, b = np.concatenate(vectors_before), np.concatenate(vectors_after)
    if a.shape != b.shape:
        raise _NotComparableError(
            f"version {parent.number} of {parent.ds} gives {a.shape[1]} embeddings of {a.shape[2]}, "
            f"the day's {b.shape[1]} of {b.shape[2]}"
        )
    return a, b


def _sample(lake: Lake, users: Partition, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Up to SAMPLE_USERS of the day's users, the same ones each time: those whose ids hash lowest."""
    order = _hashes(lake.read(users, columns=[USER_ID]).column(USER_ID).to_numpy())
    last = np.partition(order, SAMPLE_USERS - 1)[SAMPLE_USERS - 1] if len(order) > SAMPLE_USERS else order.max()
    for rows in lake.dataset(users).to_batches(columns=[USER_ID, *columns], batch_size=ROWS_PER_BATCH):
        sampled = rows.filter(pa.array(_hashes(rows.column(USER_ID).to_numpy()) <= last))
        if sampled.num_rows:
            yield sampled


def _hashes(user_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    hashes = user_ids.copy()
    hash_ids(hashes, 2**62)
    return hashes
