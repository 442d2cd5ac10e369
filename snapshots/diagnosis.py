"""From what was measured about a day to its probable cause: an ordered table of signatures, each a few lines.

Inputs come first, since a broken feature or half a day of data moves the model too; then what happened to the space of
the embeddings; then who moved. The first that fits is the most probable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from snapshots.judgement.usual import Usual, usual_of
from snapshots.shift.rows import EVERYONE, NOT_POOLED, ShiftRow
from trainer.gate import SPREADS, Relative

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
MIN_DAYS = 7
"""Of fewer promoted days nothing is usual yet."""

_OTHER_DISTRIBUTION = 4.0  # a PSI that needs no days before; a young log grows by less
_MISSING = 0.02  # of the usual day's examples: half an hour
_FLOOR = 0.01  # the smallest spread of a cosine, of a norm's change and of a share of users that is believed,
_FLOOR_OF_UNCHANGED = 0.02  # and of the share of users whose value stayed
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

    usual: the rows of the promoted days before. alarmed: the gate asked for more than promotion, so
    that where no signature fits the cause is unknown.
    """
    found = Evidence.of(rows, usual)
    causes = tuple(cause for signature in SIGNATURES for cause in signature(found))
    if causes or not alarmed:
        return causes
    return (Cause(kind="unknown", sentence="No known signature fits: compare the versions, then the day's log."),)


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

    def usual(self, key: Key) -> float | None:
        """The median of the days before; None where they are fewer than MIN_DAYS."""
        of = self._of_days_before(key, floor=_FLOOR)
        return None if of is None else of.median

    def _of_days_before(self, key: Key, *, floor: float) -> Usual | None:
        return usual_of(self.before.get(key, ()), Relative(worse=("lower", "higher"), floor=floor), min_days=MIN_DAYS)

    def fell(self, key: Key, *, floor: float = _FLOOR) -> bool:
        """Whether it is so far below the usual that days before cannot explain it."""
        of = self._of_days_before(key, floor=floor)
        return of is not None and of.median - self.values[key] > SPREADS * of.spread

    def rose(self, key: Key, *, floor: float) -> bool:
        """The same above the usual; False where it is not known."""
        of = self._of_days_before(key, floor=floor)
        return of is not None and key in self.values and self.values[key] - of.median > SPREADS * of.spread


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
    named = set()
    for key, share in found.all_of("inputs", "present_share"):
        if found.fell(key, floor=_FLOOR):
            named.add(key[4])
            yield _broken(key, f"{share:.0%} of the users have a value, usually {found.usual(key):.0%}")
    for key, share in found.all_of("inputs", "zero_share"):
        if found.rose(key, floor=_FLOOR):
            named.add(key[4])
            yield _broken(key, f"{share:.0%} of the values are 0, usually {found.usual(key):.0%}")
    for key, psi in found.all_of("inputs", "psi"):
        if psi > _OTHER_DISTRIBUTION and key[4] not in named:
            zeros = found.values.get(_of(key, "zero_share"), 0.0)
            yield _broken(key, f"PSI {psi:.1f} against the promoted day, {zeros:.0%} of the values are 0")


def _broken(key: Key, evidence: str) -> Cause:
    return Cause(kind="broken-feature", sentence=f"Feature {key[4]}: {evidence}.")


def _stale_feature(found: Evidence) -> Iterator[Cause]:
    for key, share in found.all_of("inputs", "unchanged_share"):
        if found.rose(key, floor=_FLOOR_OF_UNCHANGED):
            yield Cause(
                kind="stale-feature",
                sentence=f"Feature {key[4]}: {share:.0%} of the returning users have exactly the value of the "
                f"promoted day, usually {found.usual(key):.0%}.",
            )


def _space(found: Evidence) -> Iterator[Cause]:
    """What happened to the space of each embedding, on the same inputs: the first of SPACE that fits."""
    for key, _ in found.all_of("same_inputs", "cosine_mean"):
        causes = (cause for signature in SPACE if (cause := signature(found, key)) is not None)
        yield from islice(causes, 1)


def _swapped_pair(found: Evidence, key: Key) -> Cause | None:
    other = found.values.get(_of(key, CROSS_COSINE), -1.0)
    if not found.fell(key) or other < found.values[key] + _CLEARLY:
        return None
    return Cause(
        kind="swapped-pair",
        sentence=f"{_moved(found, key)}, and {other:.3f} between it and another embedding.",
    )


def _collapsed_dimension(found: Evidence, key: Key) -> Cause | None:
    collapsed = found.values.get(_of(key, COLLAPSED), 0.0)
    if collapsed < 1:
        return None
    return Cause(
        kind="collapsed-dimension",
        sentence=f"Embedding {key[2]}: {collapsed:.0f} dimensions that told users apart say the same of all of them.",
    )


def _rotated_space(found: Evidence, key: Key) -> Cause | None:
    kept = _of(key, NEIGHBOURS)
    overlap, usual = found.values.get(kept), found.usual(kept)
    if not found.fell(key) or overlap is None or usual is None or overlap < _NEIGHBOURS_KEPT * usual:
        return None
    return Cause(
        kind="rotated-space",
        sentence=f"{_moved(found, key)}; {overlap:.0%} of the nearest neighbours are kept, usually {usual:.0%}: the "
        "space turned, who is near whom did not.",
    )


def _scaled_norm(found: Evidence, key: Key) -> Cause | None:
    change = _of(key, "norm_change_mean")
    if not found.rose(change, floor=_FLOOR) or found.fell(key):
        return None
    return Cause(
        kind="scaled-norm",
        sentence=f"Embedding {key[2]}: the norm changed by {found.values[change]:.0%} on the same inputs, usually by "
        f"{found.usual(change):.0%}; the directions are as usual.",
    )


def _model_moved(found: Evidence, key: Key) -> Cause | None:
    if not found.fell(key):
        return None
    kept = _of(key, NEIGHBOURS)
    overlap, usual = found.values.get(kept), found.usual(kept)
    lost = (
        "" if overlap is None or usual is None else f"; {overlap:.0%} of the neighbours are kept, usually {usual:.0%}"
    )
    return Cause(kind="model-moved", sentence=f"{_moved(found, key)}{lost}.")


def _moved(found: Evidence, key: Key) -> str:
    cosine, usual = found.values[key], found.usual(key)
    return f"Embedding {key[2]}: on the same inputs, mean cosine {cosine:.3f} to the parent's, usually {usual:.3f}"


def _of(key: Key, metric: str) -> Key:
    """Another metric of the same."""
    return (key[0], metric, *key[2:])


def _users_moved(found: Evidence) -> Iterator[Cause]:
    for key, value in found.all_of("consecutive_days", "cosine_mean"):
        alone = ("same_inputs", *key[1:3], NOT_POOLED, key[4])
        if found.fell(key) and alone in found.values and not found.fell(alone):
            yield Cause(
                kind="users-moved",
                sentence=f"Embedding {key[2]}, pooling {key[3]}: mean cosine {value:.3f} to the promoted day, usually "
                f"{found.usual(key):.3f}, while on the same inputs it is as usual ({found.values[alone]:.3f}).",
            )


SPACE = (_swapped_pair, _collapsed_dimension, _rotated_space, _scaled_norm, _model_moved)
"""Signatures of one embedding, in order of precedence."""
SIGNATURES: Sequence[Signature] = (_partial_day, _broken_feature, _stale_feature, _space, _users_moved)
"""Of a day, in order of precedence."""
