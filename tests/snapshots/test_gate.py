from __future__ import annotations

import pytest

from snapshots.gate import coverage_check, shift_checks, training_checks
from snapshots.shift.rows import ShiftRow
from trainer.recipe import Gate

GATE = Gate(
    ne_max=1.0,
    ne_rise_hold=0.02,
    calibration=(0.8, 1.25),
    cosine_min=0.9,
    norm_change_max=0.2,
    coverage_min=0.99,
)
FINE = {"ne": 0.9, "calibration": 1.0, "auc": 0.7}


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
        pytest.param({"ne": None}, {}, {"hold"}, id="a day that cannot be scored"),
        pytest.param({"calibration": None}, {}, {"hold"}, id="a day without positives"),
        pytest.param({"ne": 0.9}, {"ne": None}, {"promote"}, id="yesterday could not be scored"),
        pytest.param({"auc": None}, {}, {"promote"}, id="auc is not judged"),
        pytest.param({"ne": float("nan")}, {}, {"promote", "hold", "reject"}, id="ne is NaN"),
    ],
)
def test_training_rules(today: dict[str, float], before: dict[str, float], verdicts: set[str]) -> None:
    checks = list(training_checks(GATE, {"click": FINE | today}, before={"click": FINE | before}, cold_start=False))
    assert {check.verdict for check in checks} == verdicts


def test_a_cold_start_is_not_judged_by_ne() -> None:
    (check,) = training_checks(GATE, {"click": {"ne": 3.0, "calibration": 9.0}}, before=None, cold_start=True)
    assert check.verdict == "promote"


def test_every_task_is_judged() -> None:
    checks = training_checks(GATE, {"a": FINE, "b": FINE | {"ne": 2.0}}, before=None, cold_start=False)
    assert [check.name for check in checks if check.verdict == "reject"] == ["ne b"]


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
        pytest.param(_row(value=float("nan")), ["hold"], id="NaN is not fine"),
        pytest.param(_row(metric="cosine_p05", value=0.1), [], id="quantiles are shown"),
        pytest.param(_row(pooling="none"), [], id="what is not pooled is shown"),
        pytest.param(_row(metric="predecessor", embedding=None, value=0.0), [], id="first day"),
        pytest.param(_row(metric="predecessor", embedding=None, note="nobody"), ["hold"], id="no user in common"),
    ],
)
def test_shift_rules(row: ShiftRow, verdicts: list[str]) -> None:
    assert [check.verdict for check in shift_checks(GATE, [row])] == verdicts


@pytest.mark.parametrize(
    ("num_embedded", "num_users", "verdict"),
    [
        pytest.param(100, 100, "promote", id="everybody"),
        pytest.param(99, 100, "promote", id="at the limit"),
        pytest.param(98, 100, "reject", id="too few"),
        pytest.param(0, 0, "reject", id="nobody at all"),
    ],
)
def test_coverage_rule(num_embedded: int, num_users: int, verdict: str) -> None:
    assert coverage_check(GATE, num_embedded=num_embedded, num_users=num_users).verdict == verdict


def test_a_check_explains_itself() -> None:
    (check,) = shift_checks(GATE, [_row()])
    assert check.sentence == (
        "cosine_mean of embedding 1, pooling 3, consecutive_days is 0.8500; less than 0.9 is held"
    )
