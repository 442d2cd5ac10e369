"""The model alone: the same rows of user features through the parent's snapshot and the day's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from features.lake import Lake
from snapshots.both import NotComparableError, embed_by_both
from snapshots.embedder import embedder_of
from snapshots.shift.pair import Compared
from snapshots.shift.rows import NOT_POOLED, ShiftRow, predecessor
from snapshots.shift.same_users import Column, SameUsers

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)


def same_inputs(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """The model alone: the same rows of user features through the parent's snapshot and the candidate's."""
    number = pair.version.number
    if pair.parent is None:
        yield predecessor(number, "same_inputs", found=False, num_users=0)
        return
    after = embedder_of(pair.version)
    try:
        a, b = embed_by_both(lake, pair.users, before=pair.parent, after=after)  # [N, K, D]
    except NotComparableError as error:
        log.warning("shift not comparable model=%s ds=%s: %s", recipe.name, pair.version.ds, error)
        yield predecessor(number, "same_inputs", found=False, num_users=0, note=str(error))
        return
    columns = [Column(embedding=k, pooling=NOT_POOLED) for k in range(a.shape[1])]
    same = SameUsers(columns, dim=a.shape[2], sampled=len(a) < lake.dataset(pair.users).count_rows())
    same.add(a, b)
    yield predecessor(number, "same_inputs", found=True, num_users=same.num_users)
    yield from same.rows(version=number, kind="same_inputs")
