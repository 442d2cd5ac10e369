"""From what was measured about a day to its probable cause: an ordered table of signatures, each a few lines.

Inputs come first, since a broken feature or half a day of data moves the model too; then what happened to the space of
the embeddings; then who moved. The first that fits is the most probable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from features.lake import Lake
from infra.settings import Settings
from snapshots.registry import Registry, partition_from
from snapshots.shift.rows import EVERYONE, NOT_POOLED, ShiftRow, read_rows

if TYPE_CHECKING:
    from trainer.recipe import Recipe

CauseKind = Literal[
    "partial-day",
    "broken-feature",
    "stale-feature",
    "swapped-pair",
    "collapsed-dimension",
    "rotated-space",
    "scaled-norm",
    "model-moved",
    "users-moved",
    "unknown",
]
RUNBOOKS = "infra/runbooks"
USUAL_DAYS = 14

_MISSING = 0.02  # of the usual day's examples: half an hour
_LOST = 0.25  # users whose feature went, or became zero, or stopped changing
_MOVED = 6.0  # spreads from the usual
_FLOOR = 0.01  # the smallest spread of a cosine or of a norm's change
_CLEARLY = 0.2  # a cosine above another
_NEIGHBOURS_KEPT = 0.7  # of the usual overlap

NEIGHBOURS = "knn_overlap"
COLLAPSED = "collapsed_dimensions"
CROSS_COSINE = "cross_cosine_max"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A probable cause. sentence: its evidence. runbook: path within the repository."""

    kind: CauseKind
    sentence: str

    @property
    def runbook(self) -> str:
        """What to do about it."""
        return f"{RUNBOOKS}/{self.kind}.md"


def diagnose(rows: Iterable[ShiftRow], usual: Iterable[ShiftRow], *, alarmed: bool = False) -> tuple[Cause, ...]:
    """Every cause whose signature fits the day, most probable first; none on a quiet day.

    usual: the rows of the promoted days before (`usual_rows`). alarmed: the gate asked for more than promotion, so
    that where no signature fits the cause is unknown.
    """
    found = Evidence.of(rows, usual)
    causes = tuple(cause for signature in SIGNATURES for cause in signature(found))
    if causes or not alarmed:
        return causes
    return (Cause(kind="unknown", sentence="No known signature fits: compare the versions, then the day's log."),)


def usual_rows(recipe: Recipe, ds: date, *, settings: Settings, days: int = USUAL_DAYS) -> tuple[ShiftRow, ...]:
    """The rows of the last `days` promoted days before `ds`."""
    lake = Lake(settings.lake)
    promoted = Registry(settings).promoted(recipe.name, before=ds)[:days]
    found = [partition_from(version.tags, "shift", version.ds) for version in promoted]
    return tuple(row for partition in found if partition is not None for row in read_rows(lake, partition))


Key = tuple[str, str, int | None, str, str]
"""Kind, metric, embedding, pooling, feature."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The day's values of everybody, and what each was on the days before."""

    values: dict[Key, float]
    before: dict[Key, list[float]] = field(repr=False)

    @classmethod
    def of(cls, rows: Iterable[ShiftRow], usual: Iterable[ShiftRow]) -> Evidence:
        """Slices, and what could not be measured, are left out."""
        before: dict[Key, list[float]] = {}
        for row in usual:
            if _counts(row):
                before.setdefault(_key(row), []).append(row.value)
        return cls(values={_key(row): row.value for row in rows if _counts(row)}, before=before)

    def all_of(self, kind: str, metric: str) -> Iterator[tuple[Key, float]]:
        """Of every embedding, pooling and feature."""
        return ((key, value) for key, value in self.values.items() if key[:2] == (kind, metric))

    def embeddings(self, metric: str) -> Iterator[tuple[int | None, Key]]:
        """The metric's rows of the model alone, by embedding."""
        return ((key[2], key) for key, _ in self.all_of("same_inputs", metric))

    def usual(self, key: Key) -> float | None:
        """The median of the days before; None where there is none."""
        return float(np.median(self.before[key])) if self.before.get(key) else None

    def spread(self, key: Key, *, floor: float) -> float:
        """Of the days before: the standard deviation, as the median absolute deviation tells it; at least `floor`."""
        values = self.before.get(key, [])
        if not values:
            return floor
        return max(float(np.median(np.abs(np.array(values) - np.median(values)))) * 1.4826, floor)

    def fell(self, key: Key) -> bool:
        """Whether it is below what days before can explain; False without days before."""
        usual = self.usual(key)
        return usual is not None and usual - self.values[key] > _MOVED * self.spread(key, floor=_FLOOR)

    def rise(self, key: Key) -> float:
        """Above the usual; 0 without days before."""
        usual = self.usual(key)
        return 0.0 if usual is None else self.values[key] - usual


def _counts(row: ShiftRow) -> bool:
    return row.users == EVERYONE and math.isfinite(row.value)


def _key(row: ShiftRow) -> Key:
    return row.kind, row.metric, row.embedding, row.pooling, row.feature


Signature = Callable[[Evidence], Iterator[Cause]]


def _partial_day(found: Evidence) -> Iterator[Cause]:
    for _, share in found.all_of("inputs", "hours_missing"):
        if share > _MISSING:
            span = next((f", they span {value:.1f} hours" for _, value in found.all_of("inputs", "span_hours")), "")
            examples = next((f"{value:,.0f}" for _, value in found.all_of("inputs", "num_examples")), "some")
            yield Cause(
                kind="partial-day",
                sentence=f"Hours with {share:.0%} of the promoted day's examples are missing; "
                f"there are {examples} examples{span}.",
            )


def _broken_feature(found: Evidence) -> Iterator[Cause]:
    for key, share in found.all_of("inputs", "present_share"):
        usual = found.usual(key)
        if usual is not None and usual - share > _LOST:
            yield _broken(key, f"{share:.0%} of the users have a value, usually {usual:.0%}")
    for key, share in found.all_of("inputs", "zero_share"):
        usual = found.usual(key)
        if usual is not None and share - usual > _LOST:
            yield _broken(key, f"{share:.0%} of the values are 0, usually {usual:.0%}")


def _broken(key: Key, evidence: str) -> Cause:
    return Cause(kind="broken-feature", sentence=f"Feature {key[4]}: {evidence}.")


def _stale_feature(found: Evidence) -> Iterator[Cause]:
    for key, share in found.all_of("inputs", "unchanged_share"):
        usual = found.usual(key)
        if usual is not None and share - usual > _LOST:
            yield Cause(
                kind="stale-feature",
                sentence=f"Feature {key[4]}: {share:.0%} of the returning users have exactly the value of the "
                f"promoted day, usually {usual:.0%}.",
            )


def _swapped_pair(found: Evidence) -> Iterator[Cause]:
    for k, own in found.embeddings("cosine_mean"):
        other = found.values.get((own[0], CROSS_COSINE, *own[2:]), -1.0)
        if other > found.values[own] + _CLEARLY and found.fell(own):
            yield Cause(
                kind="swapped-pair",
                sentence=f"Embedding {k}: on the same inputs, mean cosine {found.values[own]:.3f} to the parent's, "
                f"usually {found.usual(own):.3f}, and {other:.3f} between it and another embedding.",
            )


def _collapsed_dimension(found: Evidence) -> Iterator[Cause]:
    for k, key in found.embeddings(COLLAPSED):
        if found.rise(key) >= 1:
            yield Cause(
                kind="collapsed-dimension",
                sentence=f"Embedding {k}: {found.values[key]:.0f} dimensions say the same of every user, usually "
                f"{found.usual(key):.0f}.",
            )


def _turned(found: Evidence) -> Iterator[Cause]:
    """The space turned, or the model moved: the cosine on the same inputs fell."""
    for k, key in found.embeddings("cosine_mean"):
        if not found.fell(key):
            continue
        kept = (key[0], NEIGHBOURS, *key[2:])
        overlap, usual = found.values.get(kept), found.usual(kept)
        moved = f"Embedding {k}: mean cosine {found.values[key]:.3f} to the parent's on the same inputs, usually "
        moved += f"{found.usual(key):.3f}"
        if overlap is not None and usual is not None and overlap > _NEIGHBOURS_KEPT * usual:
            yield Cause(
                kind="rotated-space",
                sentence=f"{moved}; {overlap:.0%} of the nearest neighbours are kept, usually {usual:.0%}: the space "
                "turned, who is near whom did not.",
            )
        else:
            lost = "" if overlap is None or usual is None else f"; {overlap:.0%} of the neighbours, usually {usual:.0%}"
            yield Cause(kind="model-moved", sentence=f"{moved}{lost}.")


def _scaled_norm(found: Evidence) -> Iterator[Cause]:
    for k, key in found.embeddings("norm_change_mean"):
        if found.rise(key) > _MOVED * found.spread(key, floor=_FLOOR):
            yield Cause(
                kind="scaled-norm",
                sentence=f"Embedding {k}: the norm changed by {found.values[key]:.0%} on the same inputs, usually by "
                f"{found.usual(key):.0%}.",
            )


def _users_moved(found: Evidence) -> Iterator[Cause]:
    for key, value in found.all_of("consecutive_days", "cosine_mean"):
        alone = ("same_inputs", *key[1:3], NOT_POOLED, key[4])
        if found.fell(key) and alone in found.values and not found.fell(alone):
            yield Cause(
                kind="users-moved",
                sentence=f"Embedding {key[2]}, pooling {key[3]}: mean cosine {value:.3f} to the promoted day, usually "
                f"{found.usual(key):.3f}, while on the same inputs it is as usual ({found.values[alone]:.3f}).",
            )


SIGNATURES: Sequence[Signature] = (
    _partial_day,
    _broken_feature,
    _stale_feature,
    _swapped_pair,
    _collapsed_dimension,
    _turned,
    _scaled_norm,
    _users_moved,
)
"""In order of precedence."""
