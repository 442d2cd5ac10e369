"""As consumers see it: the last promoted day's embeddings and this day's, as computed and pooled.

consecutive_days: the users of both days. populations: everybody of either day, whoever they are.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.lake import DamagedTableError, Lake, MissingPartitionError, Partition
from snapshots.embeddings import POOLINGS
from snapshots.shift.ordered import SAMPLE_USERS, Layout, Spool, Users, common, concatenated, num_buckets
from snapshots.shift.pair import Compared
from snapshots.shift.populations import POPULATION_USERS, Sample, population_statistics
from snapshots.shift.rows import EVERYONE, NOT_POOLED, ShiftRow, predecessor, rows_of
from snapshots.shift.same_users import Column, SameUsers, slice_rows
from snapshots.shift.slices import DayOfUsers, day_of, slices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

    Slices = Mapping[str, NDArray[np.bool_]]

log = logging.getLogger(__name__)

UNREADABLE = (OSError, ValueError, DamagedTableError, MissingPartitionError, pa.ArrowException)


def layout_of(recipe: Recipe) -> Layout:
    """What the model's embeddings look like."""
    return Layout(num_embeddings=recipe.user_tower.num_embeddings, dim=recipe.user_tower.dim)


def columns_of(recipe: Recipe) -> list[Column]:
    """In the order of `Layout.columns`."""
    return [
        Column(embedding=k, pooling=str(recipe.pooling_versions) if prefix == "pooled" else NOT_POOLED)
        for prefix in POOLINGS
        for k in range(recipe.user_tower.num_embeddings)
    ]


@dataclass(frozen=True, kw_only=True)
class SampledDay:
    """A sample of a day's users, and who of them is in which slice."""

    users: Users
    slices: Slices


def consecutive_days(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """Rows of `consecutive_days` and of `populations`; what cannot be read of the day before is a note."""
    number = pair.version.number
    if pair.previous is None:
        yield predecessor(number, "consecutive_days", found=False, num_users=0)
        return
    lake.dataset(pair.embeddings)  # where the day itself is damaged, it is no fault of the day before
    try:
        same, samples = _streamed(recipe, lake, pair.previous, pair.embeddings)
    except UNREADABLE as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        log.warning("shift not comparable model=%s ds=%s: %s", recipe.name, pair.version.ds, error)
        note = f"{pair.previous.ds} cannot be compared with: {error}"
        yield predecessor(number, "consecutive_days", found=True, num_users=0, note=note)
        return
    yield predecessor(
        number,
        "consecutive_days",
        found=True,
        num_users=same.num_users,
        note="" if same.num_users else f"no user of {pair.previous.ds} is active",
    )
    yield from same.rows(version=number, kind="consecutive_days")
    days = [
        _sliced(recipe, lake, examples, users)
        for examples, users in zip((pair.previous_examples, pair.examples), samples, strict=True)
    ]
    yield from _same_users_by_slice(recipe, number, *days)
    yield from _populations(recipe, number, *days)


def _streamed(
    recipe: Recipe, lake: Lake, previous: Partition, embeddings: Partition
) -> tuple[SameUsers, tuple[Users, Users]]:
    """Everybody's movement, and the samples of both days."""
    layout = layout_of(recipe)
    buckets = num_buckets(lake, [previous, embeddings], layout)
    same = SameUsers(columns_of(recipe), dim=layout.dim)
    samples: tuple[list[Users], list[Users]] = ([], [])
    with (
        Spool(lake, previous, layout, buckets=buckets) as before,
        Spool(lake, embeddings, layout, buckets=buckets) as after,
    ):
        for days in zip(before.users(), after.users(), strict=True):
            for users, sample in zip(days, samples, strict=True):
                wanted = SAMPLE_USERS - sum(map(len, sample))
                if wanted > 0:  # a part of nothing would keep its whole bucket in memory
                    sample.append(users[:wanted])
            a, b = common(*days)
            same.add(a.vectors, b.vectors)
    return same, (concatenated(samples[0]), concatenated(samples[1]))


def _sliced(recipe: Recipe, lake: Lake, examples: Partition | None, users: Users) -> SampledDay:
    """Without the slices that the day's examples tell where those cannot be read."""
    try:
        day = day_of(recipe, lake, examples, users)
    except UNREADABLE as error:
        log.warning("shift by slice without examples model=%s: %s", recipe.name, error)
        day = DayOfUsers.without_examples(recipe, users)
    return SampledDay(users=users, slices=slices_of(day))


def _same_users_by_slice(recipe: Recipe, number: int, before: SampledDay, after: SampledDay) -> Iterator[ShiftRow]:
    """Slices are the day's; `returning` is everybody of both days."""
    a, b = common(before.users, after.users)
    sampled = max(len(before.users), len(after.users)) == SAMPLE_USERS
    rows = np.searchsorted(after.users.hashes, b.hashes)
    slices = {name: members[rows] for name, members in after.slices.items() if name not in ("new", "returning")}
    yield from slice_rows(
        columns_of(recipe), a.vectors, b.vectors, slices, version=number, kind="consecutive_days", sampled=sampled
    )


def _populations(recipe: Recipe, number: int, before: SampledDay, after: SampledDay) -> Iterator[ShiftRow]:
    """Of everyone, by every column; of slices, by the pooled ones, which consumers read."""
    for place, column in enumerate(columns_of(recipe)):
        slices = [EVERYONE, *after.slices] if column.pooling != NOT_POOLED else [EVERYONE]
        for name in slices:
            samples = [_sample(day, name, place) for day in (before, after)]
            yield from rows_of(
                population_statistics(*samples), version=number, kind="populations", embedding=column.embedding,
                pooling=column.pooling, users=name, num_users=len(samples[1].hashes),
            )  # fmt: skip


def _sample(day: SampledDay, name: str, place: int) -> Sample:
    """The first POPULATION_USERS of the slice whose vector is finite."""
    users = day.users if name == EVERYONE else day.users[day.slices.get(name, np.zeros(len(day.users), dtype=bool))]
    vectors = users.vectors[:, place]
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))[:POPULATION_USERS]
    return Sample(hashes=users.hashes[usable], vectors=vectors[usable].astype(np.float64))
