"""The rules of a gate on the values of a day. Nothing is read and nothing is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshots.judgement.check import ASKS, SEVERITY, Check, Verdict, number
from snapshots.judgement.usual import Trailing, Usual, usual_of
from snapshots.judgement.values import TRAINING, Value
from snapshots.shift.rows import NOT_POOLED, PREDECESSOR

if TYPE_CHECKING:
    from trainer.gate import Gate, Rule

NOT_COMPARABLE = "not-comparable"


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """Values beyond `at` are given `verdict`."""

    side: str
    at: float
    verdict: Verdict
    why: str

    def crossed(self, value: float) -> bool:
        return value < self.at if self.side == "less" else value > self.at


def judge(gate: Gate, values: Iterable[Value], *, trailing: Trailing, cold_start: bool) -> Iterator[Check]:
    """A check for every rule that a value is under, and for every value that could not be measured.

    cold_start: it has learnt nothing before it was scored, so its NE and calibration are shown and not judged.
    """
    for value in values:
        if value.metric == PREDECESSOR:
            why = f"a shift that cannot be measured is held: {value.note}"
            yield Check(of=value, rule=why, verdict="hold", about=NOT_COMPARABLE)
            continue
        for rule in gate.rules:
            if not _is_under(value, rule):
                continue
            if cold_start and value.kind == TRAINING:
                why = "a cold start is not judged by it"
                yield Check(of=value, rule=why, verdict="promote", about=rule.about)
            elif value.value is None and value.note:
                why = f"not judged, as it could not be measured: {value.note}"
                yield Check(of=value, rule=why, verdict="promote", about=rule.about)
            elif value.value is None:
                yield Check(of=value, rule="what is no number is held", verdict="hold", about=rule.about)
            else:
                yield _check(rule, value, value.value, gate=gate, trailing=trailing)


def _is_under(value: Value, rule: Rule) -> bool:
    return (value.kind, value.metric, value.users) == (rule.kind, rule.metric, rule.users) and rule.pooled in (
        None,
        value.pooling != NOT_POOLED,
    )


def _check(rule: Rule, value: Value, found: float, *, gate: Gate, trailing: Trailing) -> Check:
    usual = None
    if rule.relative is not None:
        usual = usual_of(trailing.get(value.key, ()), rule.relative, min_days=gate.min_days)
    limits = [*_absolute(rule), *_relative(rule, usual)]
    if rule.beyond_both and usual is not None:
        limits = _furthest(limits)
    crossed = [limit for limit in limits if limit.crossed(found)]
    told: _Limit | None
    if crossed:
        told = max(crossed, key=lambda limit: SEVERITY[limit.verdict])
    else:
        told = min(limits, key=lambda limit: abs(limit.at - found), default=None)
    return Check(
        of=value,
        rule=_told(told, gate=gate, num_days=len(trailing.get(value.key, ()))),
        verdict=told.verdict if crossed and told else "promote",
        about=rule.about,
        usual=None if usual is None else usual.median,
        spread=None if usual is None else usual.spread,
        num_days=0 if usual is None else usual.num_days,
        threshold=None if told is None else told.at,
    )


def _told(limit: _Limit | None, *, gate: Gate, num_days: int) -> str:
    if limit is None:
        return f"nothing is usual yet: {num_days} of {gate.min_days} promoted days"
    return f"{limit.side} than {limit.why} is {ASKS[limit.verdict]}"


def _furthest(limits: Sequence[_Limit]) -> list[_Limit]:
    """Of the limits of one side and verdict the one that is crossed last."""
    last: dict[tuple[str, Verdict], _Limit] = {}
    for limit in limits:
        key = limit.side, limit.verdict
        if key not in last or last[key].crossed(limit.at):
            last[key] = limit
    return list(last.values())


def _absolute(rule: Rule) -> Iterator[_Limit]:
    limits: tuple[tuple[str, float | None, Verdict], ...] = (
        ("less", rule.reject_below, "reject"),
        ("more", rule.reject_above, "reject"),
        ("less", rule.hold_below, "hold"),
        ("more", rule.hold_above, "hold"),
    )
    for side, at, verdict in limits:
        if at is not None:
            yield _Limit(side=side, at=at, verdict=verdict, why=f"{at:g}")


def _relative(rule: Rule, usual: Usual | None) -> Iterator[_Limit]:
    if usual is None or rule.relative is None:
        return
    low, high = usual.limits(rule.relative)
    for side, at, of in (("less", low, usual.lowest), ("more", high, usual.highest)):
        if at is None:
            continue
        far = math.isclose(abs(at - usual.median), rule.relative.spreads * usual.spread)
        word = "under" if side == "less" else "over"
        why = (
            f"{rule.relative.spreads:g} spreads {word} the usual" if far else f"a spread {word} {number(of)}, the worst"
        )
        yield _Limit(side=side, at=at, verdict="hold", why=f"{number(at)} ({why})")
