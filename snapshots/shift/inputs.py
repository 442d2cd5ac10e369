"""What went in: the day's user features and examples beside those of the last promoted day. Users: all that are
embedded. Examples: those that the recipe selects, of both days.

A broken or a stale feature, or half a day of data, moves the embeddings of everybody a little; here it stands out.
Every row is of today; what compares two days compares with the last promoted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from features.lake import Lake
from snapshots.shift.day_profile import DayProfile, profile_day
from snapshots.shift.id_sketch import seen_again
from snapshots.shift.pair import Compared
from snapshots.shift.rows import NOT_POOLED, ShiftRow, predecessor
from snapshots.shift.user_profile import ListProfile, NumberProfile, UserProfile, profile_users

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

PSI_BINS = 10


def inputs(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """The day's users feature by feature, and its examples; of two days where there is a promoted one before."""
    users_before, examples_before = pair.previous_users, pair.previous_examples
    number = pair.version.number
    profile = profile_users(lake, pair.users, recipe.schema)
    before = None if users_before is None else profile_users(lake, users_before, recipe.schema)
    yield predecessor(number, "inputs", found=before is not None, num_users=profile.num_users)
    for metric, feature, value, error in _of_users(profile, before):
        yield _row(number, metric, value, feature=feature, error=error, num_users=profile.num_users)
    if pair.examples is not None:
        days = [day for day in (pair.examples, examples_before) if day is not None]
        both = [profile_day(lake, day, recipe.source, where=recipe.examples) for day in days]
        for metric, value in _of_day(*both):
            yield _row(number, metric, value, num_users=profile.num_users)


def _row(
    number: int, metric: str, value: float, *, num_users: int, feature: str = "", error: float | None = None
) -> ShiftRow:
    return ShiftRow(
        version=number,
        kind="inputs",
        metric=metric,
        embedding=None,
        pooling=NOT_POOLED,
        feature=feature,
        value=value,
        error=error,
        num_users=num_users,
    )


Found = tuple[str, str, float, float | None]
"""Metric, feature, value, standard error."""


def _of_users(now: UserProfile, before: UserProfile | None) -> Iterator[Found]:
    yield "num_users", "", float(now.num_users), None
    for name, ids in now.lists.items():
        yield "present_share", name, ids.num_present / max(now.num_users, 1), None
        yield "mean_length", name, ids.num_ids / max(now.num_users, 1), None
        yield "distinct_ids", name, ids.ids.num_distinct, ids.ids.error
    for name, numbers in now.numbers.items():
        yield "present_share", name, numbers.num_present / max(now.num_users, 1), None
        yield "zero_share", name, numbers.num_zeros / max(numbers.num_present, 1), None
        yield "mean", name, numbers.mean, None
        yield "std", name, numbers.std, None
    if before is None:
        return
    returning = np.intersect1d(now.ids, before.ids, assume_unique=True)
    yield "returning_share", "", len(returning) / max(now.num_users, 1), None
    for name, ids in now.lists.items():
        if name in before.lists:
            yield from _lists_moved(name, ids, before.lists[name])
    for name, numbers in now.numbers.items():
        if name in before.numbers:
            yield from _numbers_moved(name, numbers, before.numbers[name])
    yield from _unchanged(now, before)


def _lists_moved(name: str, now: ListProfile, before: ListProfile) -> Iterator[Found]:
    if before.num_ids:
        share, error = seen_again(before.ids, now.ids)
        yield "ids_seen_again", name, share, error


def _numbers_moved(name: str, now: NumberProfile, before: NumberProfile) -> Iterator[Found]:
    spread = max(before.std, now.std)
    yield "mean_change", name, abs(now.mean - before.mean) / spread if spread else float(now.mean != before.mean), None
    usual, found = np.concatenate(before.values), np.concatenate(now.values)
    usual, found = usual[np.isfinite(usual)], found[np.isfinite(found)]
    if len(usual) and len(found):
        yield "psi", name, psi(usual, found), None


def psi(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Population stability index over the deciles of `before`: sum of (q - p) ln(q / p); 0.25 is a large shift.

    Half a value is added to every bin. Equal values (many zeros, say) share a bin.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, PSI_BINS + 1)[1:-1], method="lower"))
    shares = []
    for values in (before, after):
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (len(values) + 0.5 * len(counts)))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _unchanged(now: UserProfile, before: UserProfile) -> Iterator[Found]:
    """The share of returning users whose value is exactly that of the promoted day; those who have none on both days
    are not counted. Of the sampled users."""
    _, places, places_before = np.intersect1d(now.sampled, before.sampled, return_indices=True)
    for name in (*now.lists, *now.numbers):
        if name not in before.lists and name not in before.numbers:
            continue
        a, b = before.values_of(name)[places_before], now.values_of(name)[places]
        counted = (a != 0) | (b != 0) if name in now.lists else np.isfinite(a) | np.isfinite(b)
        num = int(counted.sum())
        if num:
            share = float((a[counted] == b[counted]).mean())
            sampled = len(before.sampled) < before.num_users or len(now.sampled) < now.num_users
            yield "unchanged_share", name, share, math.sqrt(share * (1 - share) / num) if sampled else None


def _of_day(now: DayProfile, before: DayProfile | None = None) -> Iterator[tuple[str, float]]:
    yield "num_examples", float(now.num_examples)
    yield "span_hours", now.span_hours
    for task, positives in now.positives.items():
        yield f"positives_{task}", float(positives)
        yield f"positive_rate_{task}", positives / max(now.num_examples, 1)
    if before is not None:
        yield "hours_missing", now.missing_share(before)
        yield "hours_moved", now.hours_moved(before)
