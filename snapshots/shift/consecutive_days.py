"""As consumers see it: the users of the last promoted day and of this one, as computed and pooled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from features.lake import Lake
from snapshots.embeddings import POOLINGS
from snapshots.movement import Movement, common_movement
from snapshots.shift.pair import Compared
from snapshots.shift.rows import NOT_POOLED, ShiftRow, predecessor, statistics

if TYPE_CHECKING:
    from trainer.recipe import Recipe


def consecutive_days(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """As consumers see it: the users of the last promoted day and this one, computed and pooled."""
    number = pair.version.number
    moved = dict(day_movements(recipe, pair, lake))
    num_users = min((found.num_users for found in moved.values()), default=0)
    yield predecessor(
        number,
        "consecutive_days",
        found=pair.previous is not None,
        num_users=num_users,
        note=f"no user of {pair.previous.ds} is active" if pair.previous and not num_users else "",
    )
    if not num_users:
        return
    for (prefix, k), found in moved.items():
        pooling = str(recipe.pooling_versions) if prefix == "pooled" else NOT_POOLED
        yield from statistics(number, "consecutive_days", found, embedding=k, pooling=pooling)


def day_movements(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[tuple[tuple[str, int], Movement]]:
    """((`embedding` | `pooled`, k), movement since the last promoted day); none without one."""
    if pair.previous is None:
        return
    for prefix in POOLINGS:
        for k in range(recipe.user_tower.num_embeddings):
            yield (
                (prefix, k),
                common_movement(
                    lake, pair.previous, pair.embeddings, column=f"{prefix}_{k}", dim=recipe.user_tower.dim
                ),
            )
