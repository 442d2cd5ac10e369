"""From what was measured about a day to its probable cause: an ordered table of signatures, each a few lines.

Inputs come first, since a broken feature or half a day of data moves the model too; then what happened to the space of
the embeddings; then who moved. The first that fits is the most probable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from features.lake import Lake
from infra.settings import Settings
from snapshots.registry import Registry, partition_from
from snapshots.shift.rows import ShiftRow, read_rows

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
_NEIGHBOURS_KEPT = 0.6  # of the usual overlap


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
        """Slices are left out."""
        before: dict[Key, list[float]] = {}
        for row in usual:
            if row.users == "all":
                before.setdefault(_key(row), []).append(row.value)
        return cls(values={_key(row): row.value for row in rows if row.users == "all"}, before=before)

    def all_of(self, kind: str, metric: str) -> Iterator[tuple[Key, float]]:
        """Of every embedding, pooling and feature."""
        return ((key, value) for key, value in self.values.items() if key[:2] == (kind, metric))

    def usual(self, key: Key) -> float | None:
        """The median of the days before; None where there is none."""
        return float(np.median(self.before[key])) if self.before.get(key) else None

    def spread(self, key: Key, *, floor: float) -> float:
        """Of the days before: the standard deviation, as the median absolute deviation tells it; at least `floor`."""
        values = self.before.get(key, [])
        if not values:
            return floor
        return max(float(np.median(np.abs(np.array(values) - np.median(values)))) * 1.4826, floor)

    def rise(self, key: Key) -> float:
        """Above the usual; without days before, above nothing."""
        return self.values[key] - (self.usual(key) or 0.0)


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


SIGNATURES: Sequence[Signature] = (_partial_day, _broken_feature, _stale_feature)
"""In order of precedence."""
