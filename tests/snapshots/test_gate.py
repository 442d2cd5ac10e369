"""The gate's rules as truth tables: absolute, relative to the trailing days, and the sentences they give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from snapshots.judgement.check import Check
from snapshots.judgement.judge import judge
from snapshots.judgement.usual import usual_of
from snapshots.judgement.values import Value, shift_values, training_values
from snapshots.shift.rows import ShiftRow
from trainer.gate import Gate, Relative, Rule

GATE = Gate(
    ne_max=1.0,
    ne_rise_hold=0.02,
    calibration=(0.8, 1.25),
    cosine_min=0.9,
    norm_change_max=0.2,
    coverage_min=0.99,
)
FINE = {"ne": 0.9, "calibration": 1.0, "auc": 0.7}
NAN = float("nan")


def _trained(
    today: dict[str, dict[str, float | None]], before: dict[str, float | None] | None = None, *, cold: bool = False
) -> list[Check]:
    values = training_values(today, before={} if before is None else {"click": before})
    return list(judge(GATE, values, trailing={}, cold_start=cold))


@pytest.mark.parametrize(
    ("today", "before", "verdicts"),
    [
        pytest.param({}, {}, {"promote"}, id="as yesterday"),
        pytest.param({"ne": 1.0}, {"ne": 1.0}, {"promote"}, id="ne at the limit"),
        pytest.param({"ne": 1.0001}, {"ne": 1.0}, {"promote", "reject"}, id="ne worse than the average"),
        pytest.param({"ne": 0.919}, {"ne": 0.90}, {"promote"}, id="ne up by less than the limit"),
        pytest.param({"ne": 0.921}, {"ne": 0.90}, {"promote", "hold"}, id="ne up by more than the limit"),
        pytest.param({"ne": 0.5}, {"ne": 0.9}, {"promote"}, id="ne down"),
        pytest.param({"ne": 1.5}, {"ne": 0.9}, {"promote", "hold", "reject"}, id="ne far up"),
        pytest.param({"calibration": 0.8}, {}, {"promote"}, id="calibration at its lower limit"),
        pytest.param({"calibration": 0.79}, {}, {"promote", "hold"}, id="predicts too little"),
        pytest.param({"calibration": 1.26}, {}, {"promote", "hold"}, id="predicts too much"),
        pytest.param({"ne": None}, {}, {"promote", "hold"}, id="a day that cannot be scored"),
        pytest.param({"calibration": None}, {}, {"promote", "hold"}, id="a day without positives"),
        pytest.param({"ne": 0.9}, {"ne": None}, {"promote"}, id="yesterday could not be scored"),
        pytest.param({"auc": None}, {}, {"promote"}, id="auc is not judged"),
        pytest.param({"ne": NAN}, {}, {"promote", "hold"}, id="ne is NaN"),
    ],
)
def test_training_rules(today: dict[str, float], before: dict[str, float], verdicts: set[str]) -> None:
    assert {check.verdict for check in _trained({"click": FINE | today}, FINE | before)} == verdicts


def test_a_cold_start_is_not_judged_by_what_it_learnt() -> None:
    checks = _trained({"click": {"ne": 3.0, "calibration": NAN}}, cold=True)
    assert {check.verdict for check in checks} == {"promote"}
    assert checks[0].sentence == "ne of click is 3.0000; a cold start is not judged by it"


def test_every_task_is_judged() -> None:
    checks = _trained({"a": FINE, "b": FINE | {"ne": 2.0}})
    assert [check.name for check in checks if check.verdict == "reject"] == ["ne of b"]


def _row(**changes: object) -> ShiftRow:
    row = {
        "version": 2, "kind": "consecutive_days", "metric": "cosine_mean", "embedding": 1, "pooling": "3",
        "value": 0.85, "num_users": 10,
    }  # fmt: skip
    return ShiftRow(**row | changes)


@pytest.mark.parametrize(
    ("row", "verdicts"),
    [
        pytest.param(_row(), ["hold"], id="turned too far"),
        pytest.param(_row(value=0.9), ["promote"], id="cosine at the limit"),
        pytest.param(_row(metric="norm_change_mean", value=0.2), ["promote"], id="norm change at the limit"),
        pytest.param(_row(metric="norm_change_mean", value=0.201), ["hold"], id="norm changed too much"),
        pytest.param(_row(value=NAN), ["hold"], id="NaN is not fine"),
        pytest.param(_row(value=NAN, note="3 users"), ["promote"], id="NaN with a reason: shown"),
        pytest.param(
            _row(kind="inputs", metric="hours_missing", embedding=None, pooling="none", value=0.1),
            ["hold"],
            id="hours are missing",
        ),
        pytest.param(
            _row(kind="same_inputs", metric="collapsed_dimensions", pooling="none", value=1),
            ["hold"],
            id="a dimension collapsed",
        ),
        pytest.param(
            _row(metric="collapsed_dimensions", pooling="none", value=32),
            ["hold"],
            id="everybody looks alike, to the model before too",
        ),
        pytest.param(_row(metric="collapsed_dimensions", value=1), [], id="pooling hides a collapse"),
        pytest.param(_row(kind="inputs", metric="psi", embedding=None, value=4.1), ["hold"], id="another distribution"),
        pytest.param(_row(metric="unusable_share", value=0.001), ["hold"], id="a NaN among the vectors"),
        pytest.param(_row(metric="unusable_share", value=0.02), ["reject"], id="many"),
        pytest.param(_row(metric="cosine_p05", value=0.1), [], id="quantiles are shown"),
        pytest.param(_row(pooling="none"), [], id="what is not pooled is shown"),
        pytest.param(_row(users="new"), [], id="slices are shown"),
        pytest.param(_row(metric="predecessor", embedding=None, value=0.0), [], id="first day"),
        pytest.param(_row(metric="predecessor", embedding=None, note="nobody"), ["hold"], id="no user in common"),
    ],
)
def test_shift_rules(row: ShiftRow, verdicts: list[str]) -> None:
    checks = judge(GATE, shift_values([row]), trailing={}, cold_start=False)
    assert [check.verdict for check in checks] == verdicts


@pytest.mark.parametrize(
    ("coverage", "verdict"), [pytest.param(0.99, "promote", id="at the limit"), pytest.param(0.98, "reject", id="less")]
)
def test_coverage_rule(coverage: float, verdict: str) -> None:
    value = Value(kind="counts", metric="coverage", value=coverage)
    assert [check.verdict for check in judge(GATE, [value], trailing={}, cold_start=False)] == [verdict]


def _usual(value: float | None, days: Sequence[float], *, relative: Relative, **absolute: float) -> Check:
    """The one check of a gate with one rule, of a value on a day after `days`."""
    rule = Rule(kind="counts", metric="x", about="too-few", relative=relative, **absolute)  # type: ignore[arg-type]
    of = Value(kind="counts", metric="x", value=value)
    (check,) = judge(Gate(usual=(rule,)), [of], trailing={of.key: tuple(days)}, cold_start=False)
    return check


LOWER = Relative(worse=("lower",), floor=0.01)
HIGHER = Relative(worse=("higher",), floor=0.01)
BOTH = Relative(worse=("lower", "higher"), floor=0.01)
QUIET = [0.96, 0.95, 0.97, 0.96, 0.95, 0.97, 0.96, 0.96]  # median 0.96, deviation 0.005, spread 0.01
WEEK = [100.0, 100, 100, 100, 100, 50, 50] * 2
SHARE = Relative(worse=("lower",), floor_share=0.05)


@pytest.mark.parametrize(
    ("value", "days", "relative", "verdict"),
    [
        pytest.param(0.96, QUIET, LOWER, "promote", id="as usual"),
        pytest.param(0.901, QUIET, LOWER, "promote", id="just within six spreads"),
        pytest.param(0.899, QUIET, LOWER, "hold", id="more than six spreads under"),
        pytest.param(1.5, QUIET, LOWER, "promote", id="better than usual is no fault"),
        pytest.param(1.021, QUIET, HIGHER, "hold", id="more than six spreads over"),
        pytest.param(0.5, QUIET, HIGHER, "promote", id="lower where higher is worse"),
        pytest.param(0.5, QUIET, BOTH, "hold", id="both sides: under"),
        pytest.param(1.5, QUIET, BOTH, "hold", id="both sides: over"),
        pytest.param(0.1, QUIET[:6], LOWER, "promote", id="fewer than seven days: nothing is usual"),
        pytest.param(0.1, QUIET[:7], LOWER, "hold", id="seven days"),
        pytest.param(0.1, [*QUIET[:6], NAN], LOWER, "promote", id="a NaN is no day"),
        pytest.param(0.1, [], LOWER, "promote", id="the first day"),
        pytest.param(0.95, [0.96] * 8, LOWER, "promote", id="days all alike: the floor is the spread"),
        pytest.param(0.89, [0.96] * 8, LOWER, "hold", id="days all alike, and far"),
        pytest.param(0.70, [*QUIET, 0.7], LOWER, "promote", id="consumers lived with it last week"),
        pytest.param(0.68, [*QUIET, 0.7], LOWER, "hold", id="worse than that by more than a spread"),
        pytest.param(48.0, WEEK, SHARE, "promote", id="a Sunday like the last one"),
        pytest.param(30.0, WEEK, SHARE, "hold", id="half a Sunday"),
        pytest.param(69.0, [100.0] * 8, SHARE, "hold", id="a third of the users is gone"),
        pytest.param(71.0, [100.0] * 8, SHARE, "promote", id="a quarter of the users"),
        pytest.param(None, QUIET, LOWER, "hold", id="no number"),
        pytest.param(math.inf, QUIET, HIGHER, "hold", id="infinite"),
    ],
)
def test_relative_rules(value: float, days: list[float], relative: Relative, verdict: str) -> None:
    assert _usual(value, days, relative=relative).verdict == verdict


def test_one_wild_day_moves_neither_the_usual_nor_its_spread() -> None:
    wild = usual_of([*QUIET, -5.0], LOWER, min_days=7)
    assert wild is not None
    assert (wild.median, wild.num_days) == (0.96, 9)
    assert wild.spread < 0.02


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        pytest.param(
            _usual(0.85, [], relative=LOWER, hold_below=0.9),
            "x is 0.8500; less than 0.9 is held",
            id="absolute",
        ),
        pytest.param(
            _usual(0.89, QUIET, relative=LOWER),
            "x is 0.8900, usually 0.9600 (spread 0.0100, 8 days); less than 0.9000 (6 spreads under the usual) is held",
            id="relative",
        ),
        pytest.param(
            _usual(0.60, [*QUIET, 0.7], relative=LOWER),
            "x is 0.6000, usually 0.9600 (spread 0.0148, 9 days); "
            "less than 0.6852 (a spread under 0.7000, the worst) is held",
            id="worse than the worst",
        ),
        pytest.param(
            _usual(0.2, QUIET, relative=LOWER, hold_below=0.9, reject_below=0.5),
            "x is 0.2000, usually 0.9600 (spread 0.0100, 8 days); less than 0.5 is rejected",
            id="the gravest is told",
        ),
        pytest.param(
            _usual(0.95, QUIET, relative=LOWER, hold_below=0.5),
            "x is 0.9500, usually 0.9600 (spread 0.0100, 8 days); less than 0.9000 (6 spreads under the usual) is held",
            id="kept: the nearest is told",
        ),
        pytest.param(
            _usual(0.95, QUIET[:3], relative=LOWER),
            "x is 0.9500; nothing is usual yet: 3 of 7 promoted days",
            id="nothing is usual yet",
        ),
        pytest.param(
            _usual(30_000, [60_000.0] * 8, relative=SHARE),
            "x is 30,000, usually 60,000 (spread 3,000, 8 days); less than 42,000 (6 spreads under the usual) is held",
            id="counts are written in full",
        ),
    ],
)
def test_a_check_explains_itself(check: Check, sentence: str) -> None:
    assert check.sentence == sentence


NOISY = Relative(worse=("higher",), floor=0.002)
LOUD = [-0.02, 0.01, 0.03, -0.01, 0.02, -0.03, 0.0, 0.01]  # spread 0.022


@pytest.mark.parametrize(
    ("value", "days", "verdict"),
    [
        pytest.param(0.03, [], "hold", id="nothing is usual yet: the absolute threshold"),
        pytest.param(0.03, LOUD, "promote", id="such noise is usual"),
        pytest.param(0.2, LOUD, "hold", id="beyond both"),
        pytest.param(0.015, [0.0] * 8, "promote", id="unusual, and small"),
        pytest.param(0.03, [0.0] * 8, "hold", id="unusual, and not small"),
    ],
)
def test_a_rule_of_both_thresholds(value: float, days: list[float], verdict: str) -> None:
    rule = Rule(kind="counts", metric="x", about="ne", hold_above=0.02, relative=NOISY, beyond_both=True)
    of = Value(kind="counts", metric="x", value=value)
    (check,) = judge(Gate(usual=(rule,)), [of], trailing={of.key: tuple(days)}, cold_start=False)
    assert check.verdict == verdict


def test_names_say_what_was_judged() -> None:
    (check,) = judge(GATE, shift_values([_row()]), trailing={}, cold_start=False)
    assert check.sentence == (
        "cosine_mean of embedding 1, pooling 3, consecutive days is 0.8500; less than 0.9 is held"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: Relative(worse=(), floor=1), "a side that is worse", id="no side"),
        pytest.param(lambda: Relative(worse=("lower",)), "one of them is positive", id="no floor"),
        pytest.param(lambda: Relative(worse=("lower",), floor=1, spreads=1), "more than 1", id="half the days held"),
        pytest.param(lambda: Rule(kind="counts", metric="x", about="x"), "no threshold", id="no threshold"),
        pytest.param(lambda: Gate(min_days=15), "min_days is 15", id="more days than there are"),
    ],
)
def test_nonsense_is_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
