"""Slices of a day's users: who is new, who returns, who is heavy, and a slice per value of the recipe's `slices`.

A slice is a name and, for users of one day, who of them is in it; of the day before it is taken anew, so that new users
are compared with those who were new. To add one, add a function to SLICES. Every user is embedded, whatever the model
learns from: so users are told apart by all examples of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.columns import IdLists, column_of
from features.lake import Lake, Partition
from features.packing import packed_lists
from features.schema import USER_ID, Schema, SparseFeature, packed_columns
from snapshots.shift.ordered import Users, batches
from snapshots.shift.populations import FEWEST_USERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

    Mask = NDArray[np.bool_]
    Votes = tuple[NDArray[np.int64], NDArray[np.int64]]

HEAVY_SHARE = 0.1
MOST_VALUES = 4
"""Of a feature: the most frequent, by users, of those that FEWEST_USERS have."""


@dataclass(frozen=True, kw_only=True)
class DayOfUsers:
    """What a slice may be told by: some users of a day, and that day's examples of them."""

    users: Users
    num_examples: NDArray[np.int64]
    """[N]."""
    values: dict[str, NDArray[np.int64]]
    """By feature, [N]: the first id of its list in most of the user's examples; -1 of a user who has none."""
    versions_pooled: int
    """At most."""

    @classmethod
    def without_examples(cls, recipe: Recipe, users: Users) -> DayOfUsers:
        """Nobody has any."""
        num_examples = np.zeros(len(users), dtype=np.int64)
        return cls(users=users, num_examples=num_examples, values={}, versions_pooled=recipe.pooling_versions)


def slices_of(day: DayOfUsers) -> dict[str, Mask]:
    """Every slice that has a user, by name."""
    found = {name: mask for slicer in SLICES for name, mask in slicer(day)}
    return {name: mask for name, mask in found.items() if mask.any()}


def _by_history(day: DayOfUsers) -> Iterator[tuple[str, Mask]]:
    """New: no earlier embedding was pooled; where none ever is, nobody can tell."""
    if day.versions_pooled > 1:
        is_new = day.users.rows["num_pooled"] == 1
        yield "new", is_new
        yield "returning", ~is_new


def _heavy(day: DayOfUsers) -> Iterator[tuple[str, Mask]]:
    """As many examples as the tenth that has most, and more than half of the users have."""
    if len(day.num_examples):
        least, median = np.quantile(day.num_examples, [1 - HEAVY_SHARE, 0.5], method="lower")
        yield "heavy", (day.num_examples >= least) & (day.num_examples > median)


def _by_value(day: DayOfUsers) -> Iterator[tuple[str, Mask]]:
    for feature, values in day.values.items():
        found, counts = np.unique(values[values >= 0], return_counts=True)
        found, counts = found[counts >= FEWEST_USERS], counts[counts >= FEWEST_USERS]
        for value in sorted(found[np.argsort(-counts, kind="stable")][:MOST_VALUES]):
            yield f"{feature}={value}", values == value


SLICES: tuple[Callable[[DayOfUsers], Iterator[tuple[str, Mask]]], ...] = (_by_history, _heavy, _by_value)


def day_of(recipe: Recipe, lake: Lake, examples: Partition | None, users: Users) -> DayOfUsers:
    """Stream the day's examples and count those of `users`. ValueError, OSError: they cannot be read."""
    if examples is None or not len(users):
        return DayOfUsers.without_examples(recipe, users)
    num_examples = np.zeros(len(users), dtype=np.int64)
    features = [feature for feature in recipe.schema.sparse if feature.name in recipe.slices]
    votes: dict[str, list[Votes]] = {feature.name: [] for feature in features}
    order = np.argsort(users.ids)
    ids = users.ids[order]
    columns = sorted({column for feature in features for column in _columns(feature, recipe.schema)})
    for batch in batches(lake.dataset(examples), [USER_ID, *columns]):
        found = column_of(batch, USER_ID).to_numpy()
        places = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
        rows = np.flatnonzero(ids[places] == found)
        places = order[places[rows]]
        num_examples += np.bincount(places, minlength=len(users))
        for feature in features if len(rows) else ():
            lists = _lists(batch, feature, recipe.schema)
            values, starts = lists.take(lists.places(rows))
            has = np.diff(starts) > 0
            votes[feature.name].append((places[has], values[starts[:-1][has]]))
    return DayOfUsers(
        users=users,
        num_examples=num_examples,
        values={name: _elected(parts, len(users)) for name, parts in votes.items()},
        versions_pooled=recipe.pooling_versions,
    )


def _columns(feature: SparseFeature, schema: Schema) -> tuple[str, ...]:
    return packed_columns(feature.side)[:2] if schema.is_packed(feature.side) else (feature.name,)


def _lists(batch: pa.RecordBatch, feature: SparseFeature, schema: Schema) -> IdLists:
    if schema.is_packed(feature.side):
        return packed_lists(batch, feature.side)[feature.name]
    return IdLists.of_column(column_of(batch, feature.name), feature.name)


def _elected(votes: list[Votes], num_users: int) -> NDArray[np.int64]:
    """[N]: each user's most frequent value, of several the lowest; -1 of who has none."""
    elected = np.full(num_users, -1, dtype=np.int64)
    if votes:
        users, values = (np.concatenate(parts) for parts in zip(*votes, strict=True))
        known, which = np.unique(values, return_inverse=True)
        pairs, counts = np.unique(users * len(known) + which, return_counts=True)
        order = np.lexsort((-pairs, counts))  # of a user's pairs, the last that is written stays
        elected[pairs[order] // len(known)] = known[pairs[order] % len(known)]
    return elected
