"""As consumers see it: the last promoted day's embeddings and this day's, as computed and pooled.

consecutive_days: the users of both days. populations: everybody of either day, whoever they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
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
    with ExitStack() as stack:
        lake.dataset(pair.embeddings)  # where the day itself is damaged, it is no fault of the day before
        try:
            before = stack.enter_context(_spool(recipe, pair, lake, pair.previous))
        except UNREADABLE as error:
            log.warning("shift not comparable model=%s ds=%s: %s", recipe.name, pair.version.ds, error)
            note = f"the embeddings of {pair.previous.ds} cannot be read: {error}"
            yield predecessor(number, "consecutive_days", found=True, num_users=0, note=note)
            return
        after = stack.enter_context(_spool(recipe, pair, lake, pair.embeddings))
        same, samples = _stream(recipe, before, after)
        sampled = max(before.num_users, after.num_users) > SAMPLE_USERS
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
    yield from _same_users_by_slice(recipe, number, *days, sampled=sampled)
    yield from _populations(recipe, number, *days)


def _spool(recipe: Recipe, pair: Compared, lake: Lake, partition: Partition) -> Spool:
    layout = layout_of(recipe)
    both = [pair.embeddings, pair.previous or pair.embeddings]
    return Spool(lake, partition, layout, buckets=num_buckets(lake, both, layout))


def _stream(recipe: Recipe, before: Spool, after: Spool) -> tuple[SameUsers, list[Users]]:
    """Everybody's movement, and the samples of both days."""
    same = SameUsers(columns_of(recipe), dim=recipe.user_tower.dim)
    samples: tuple[list[Users], list[Users]] = ([], [])
    for days in zip(before.users(), after.users(), strict=True):
        for users, sample in zip(days, samples, strict=True):
            wanted = SAMPLE_USERS - sum(map(len, sample))
            if wanted > 0 or not sample:
                sample.append(users[: max(wanted, 0)])
        a, b = common(*days)
        same.add(a.vectors, b.vectors)
    return same, [concatenated(sample) for sample in samples]


def _sliced(recipe: Recipe, lake: Lake, examples: Partition | None, users: Users) -> SampledDay:
    """Without the slices that the day's examples tell where those cannot be read."""
    try:
        day = day_of(recipe, lake, examples, users)
    except UNREADABLE as error:
        log.warning("shift by slice without examples model=%s: %s", recipe.name, error)
        day = DayOfUsers.without_examples(recipe, users)
    return SampledDay(users=users, slices=slices_of(day))


def _same_users_by_slice(
    recipe: Recipe, number: int, before: SampledDay, after: SampledDay, *, sampled: bool
) -> Iterator[ShiftRow]:
    """Slices are the day's; `returning` is everybody of both days."""
    a, b = common(before.users, after.users)
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
