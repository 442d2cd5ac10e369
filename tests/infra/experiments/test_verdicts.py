"""What the studies conclude from planted numbers: a claim is agreed with or not only where its interval says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from infra.experiments import capacity, solaris_finding, table2, table3, table4
from infra.experiments.consumers import consumers_of
from infra.experiments.finding import Finding
from infra.experiments.setting import get_setting
from infra.experiments.solaris_arms import BUDGET, DISTILLED, INDEPENDENT, NOT_MIRRORED, SERVED, budget_arm
from infra.experiments.statistics import estimate
from infra.experiments.study import Results
from infra.experiments.verdicts import costs_nothing
from infra.experiments.versions import NONE, OPTION_1, PAPERS_TURN, POOLED, TURNED, TURNED_ONCE
from trainer.downstream.arms import BASELINE, SUM

QUICK = get_setting("quick")
SEEDS = range(3)
Given = Mapping[Any, tuple[float, ...]]
"""By what is planted, its values by seed."""


def near(value: float) -> tuple[float, ...]:
    """Seeds that agree."""
    return value - 0.01 * abs(value), value, value + 0.01 * abs(value)


def far(value: float) -> tuple[float, ...]:
    """Seeds that do not."""
    return value - 3 * abs(value) - 1, value, value + 3 * abs(value) + 1


def planted(of_seed: Callable[[int], Any], *parts: str) -> Results:
    return {seed: dict.fromkeys(parts or ("all",), of_seed(seed)) for seed in SEEDS}


def of_table2(given: Given) -> Finding:
    """Next-day NE differences by mode."""
    gains = {"frozen": near(-2), "batch": near(-8), "async-versions": near(-10), "realtime-versions": near(-12)}
    gains |= {"realtime-first": near(-9), "async": near(-9), "realtime": near(-10), **given}
    others = ("online", "coverage", "fallback_rate", "newest_age_hours", "mean_age_hours")

    def of_seed(seed: int) -> Any:
        modes = {mode: {"next_day": of[seed], **dict.fromkeys(others, 1.0)} for mode, of in gains.items()}
        ages = {"15": gains["frozen"][seed], "29": -1.0}
        rest = {"baseline_ne": 0.8, "requests": 10, "upstream_ne": [0.9] * QUICK.num_days}
        return {"modes": modes, "frozen_days": ages, "frozen_age": 15, **rest}

    return table2.conclude(QUICK, planted(of_seed))


def of_table3(given: Given) -> Finding:
    """Cosines by kind and embedding."""
    cosines = {("none", 0): near(0.87), ("none", 1): near(0.95), ("3", 0): near(0.97), ("3", 1): near(0.98)}
    cosines |= {(part, k): near(0.9) for part in table3.PARTS for k in (0, 1)} | dict(given)
    norms = {"none": 10.0, "3": 5.0}
    kinds = dict.fromkeys(kind for kind, _ in cosines)

    def of_seed(seed: int) -> Any:
        return {"a": {kind: [[cosines[kind, k][seed], norms.get(kind, 1.0)] for k in (0, 1)] for kind in kinds}}

    return table3.conclude(QUICK, planted(of_seed))


def of_table4(given: Given) -> Finding:
    """By arm and kind: train, eval or cosine."""
    arms = [NONE, *(f"pooling {n}" for n in POOLED), OPTION_1, "Embedding0 alone", "Embedding1 alone"]
    arms += [f"turned to {c}" for c in TURNED] + [f"{TURNED_ONCE}, pooling 3", f"{TURNED_ONCE}, option 1"]
    arms += [f"blurred to {PAPERS_TURN}"]
    usual = {"train": near(-2), "eval": near(-1), "cosine": near(0.9)}

    def of_seed(seed: int) -> Any:
        found = {arm: {kind: given.get((arm, kind), of)[seed] for kind, of in usual.items()} for arm in arms}
        return {"arms": found, "model_alone": 0.95, "baseline": {"train": 0.8, "eval": 0.8}}

    return table4.conclude(QUICK, planted(of_seed, table4.POOR, table4.RICH))


def of_capacity(given: Given) -> Finding:
    """Measured shares in percent, by items of a request."""
    shares = {1: near(80), 16: near(40), 64: near(10), 256: near(3), **given}
    costs = {str(one): {"item": 10.0, "joined": 1.0} for one in consumers_of(QUICK.of(0))}

    def of_seed(seed: int) -> Any:
        avoided = {str(m): of[seed] / 100 for m, of in shares.items()}
        seconds = {str(m): {"tower": 1e-3} for m in shares}
        return {"counted": {"tower": 100.0, **costs}, "seconds": seconds, "avoided": avoided, "tower MiB": 1.0}

    return capacity.conclude(QUICK, planted(of_seed))


def of_solaris(given: Given) -> Finding:
    """NE to SUM in percent, by arm."""
    levels = dict.fromkeys(("exact", "user", "neighbours", "zero", "age_hours", "forwards"), 0.25)

    def arm(name: str, seed: int) -> Any:
        gains = {"to_sum": given.get(name, (0.0,) * 3)[seed], "to_baseline": -5.0}
        return gains | (levels if name in SERVED else {})

    def of_seed(seed: int) -> Any:
        arms = {name: arm(name, seed) for name in (BASELINE, SUM, *SERVED, *DISTILLED)}
        recalls = {f"{by} {n}": 0.1 for by in solaris_finding.PREDICTORS for n in ("0.5", "2", "8")}
        return {"arms": arms, "recalls": {**recalls, "own weight": 0.5}, "mflop_user": 1.0, "mflop_pair": 1.0}

    return solaris_finding.conclude(QUICK, planted(of_seed, INDEPENDENT))


MIDDLE = budget_arm(BUDGET)
ORDER, KEEPS, WITHIN = "Frozen, batch, async", "Offline batch keeps", "by half at least"
LESS, MOVES, OURS, STABLER = "moves every embedding less", "next day's snapshot", "move more", "more stable than"
LOST, ENOUGH, ALONE, ON_TOP = "ctr_a: most of", "ctr_a: three", "ctr_a: the more stable", "ctr_a: the less stable"
AVOIDS, FALLS = "avoids serving capacity", "falls with the items"
HELP, MIRRORED = "Precomputed pairs help", "Misses have to be"
SWAPPED = {("none", 0): (0.87, 0.97, 0.88), ("none", 1): (0.97, 0.87, 0.98)}
STABLE_IS_1 = {("Embedding1 alone", "cosine"): near(0.97), ("Embedding1 alone", "train"): near(-3)}
STABLE_BY_TURNS = {
    ("Embedding0 alone", "cosine"): (0.87, 0.97, 0.87),
    ("Embedding1 alone", "cosine"): (0.97, 0.87, 0.97),
    ("Embedding0 alone", "train"): (-2.0, -3.0, -2.1),
    ("Embedding1 alone", "train"): (-3.0, -2.0, -3.1),
}


@pytest.mark.parametrize(
    ("conclude", "given", "claim", "agrees"),
    [
        pytest.param(of_table2, {}, ORDER, True, id="table2-in-order"),
        pytest.param(of_table2, {"batch": near(-1)}, ORDER, False, id="table2-out-of-order"),
        pytest.param(of_table2, {"batch": far(-8)}, ORDER, None, id="table2-order-unknown"),
        pytest.param(of_table2, {"batch": (-7.9, -8.0, -8.2)}, KEEPS, True, id="table2-two-thirds"),
        pytest.param(of_table2, {"batch": near(-3)}, KEEPS, False, id="table2-a-quarter"),
        pytest.param(of_table2, {"batch": far(-8)}, KEEPS, None, id="table2-wide"),
        pytest.param(of_table2, {"realtime-versions": far(-1)}, KEEPS, None, id="table2-no-gain"),
        pytest.param(of_table2, {}, WITHIN, True, id="table2-most-within-a-day"),
        pytest.param(of_table2, {"realtime-first": near(-11)}, WITHIN, False, id="table2-little-within-a-day"),
        pytest.param(of_table2, {"realtime-first": far(-9)}, WITHIN, None, id="table2-within-unknown"),
        pytest.param(of_table2, {"batch": far(-8)}, WITHIN, None, id="table2-whole-unknown"),
        pytest.param(of_table2, {"batch": near(-13)}, WITHIN, None, id="table2-no-advantage-to-share"),
        pytest.param(of_table2, {"frozen": near(-3)}, "A frozen model", None, id="table2-frozen-a-quarter"),
        pytest.param(of_table3, {}, LESS, True, id="table3-less"),
        pytest.param(of_table3, {("3", 1): near(0.5)}, LESS, False, id="table3-one-more"),
        pytest.param(of_table3, {("3", 1): (0.9, 0.95, 0.99)}, LESS, None, id="table3-one-unknown"),
        pytest.param(of_table3, {("model alone", 0): near(0.9)}, MOVES, True, id="table3-moves"),
        pytest.param(of_table3, {("model alone", 0): (1.0, 1.0, 1.0)}, MOVES, None, id="table3-stays"),
        pytest.param(of_table3, {("features alone", 0): near(0.99)}, OURS, True, id="table3-the-model-more"),
        pytest.param(of_table3, {("features alone", 0): near(0.5)}, OURS, False, id="table3-the-features-more"),
        pytest.param(of_table3, {}, OURS, None, id="table3-alike"),
        pytest.param(of_table3, {}, STABLER, True, id="table3-the-same-one-is-stabler"),
        pytest.param(of_table3, SWAPPED, STABLER, True, id="table3-either-is-stabler"),
        pytest.param(of_table3, {("none", 1): near(0.88)}, STABLER, False, id="table3-alike-in-stability"),
        pytest.param(of_table3, {("none", 1): (0.87, 0.97, 0.88)}, STABLER, None, id="table3-some-stabler"),
        pytest.param(of_table4, {(NONE, "eval"): near(-0.2)}, LOST, True, id="table4-lost"),
        pytest.param(of_table4, {(NONE, "eval"): near(-1.9)}, LOST, False, id="table4-kept"),
        pytest.param(of_table4, {(NONE, "eval"): far(-1)}, LOST, None, id="table4-loss-unknown"),
        pytest.param(of_table4, {("pooling 3", "eval"): near(-2)}, ENOUGH, True, id="table4-three-are-enough"),
        pytest.param(of_table4, {("pooling 5", "eval"): near(-2)}, ENOUGH, False, id="table4-five-gain-more"),
        pytest.param(of_table4, {}, ENOUGH, None, id="table4-three-and-five-alike"),
        pytest.param(of_table4, STABLE_IS_1, ALONE, True, id="table4-1-is-stabler-and-gains"),
        pytest.param(of_table4, STABLE_BY_TURNS, ALONE, True, id="table4-either-is-stabler-and-gains"),
        pytest.param(of_table4, {("Embedding0 alone", "train"): near(-1)}, ALONE, False, id="table4-the-other-gains"),
        pytest.param(of_table4, {}, ALONE, None, id="table4-alike"),
        pytest.param(of_table4, {**STABLE_BY_TURNS, (NONE, "train"): near(-5)}, ON_TOP, True, id="table4-on-top"),
        pytest.param(of_table4, STABLE_BY_TURNS, ON_TOP, False, id="table4-worse-on-top"),
        pytest.param(of_table4, {(NONE, "train"): far(-2)}, ON_TOP, None, id="table4-on-top-unknown"),
        pytest.param(of_capacity, {}, AVOIDS, True, id="capacity-avoided"),
        pytest.param(of_capacity, {256: near(-3)}, AVOIDS, False, id="capacity-lost"),
        pytest.param(of_capacity, {256: far(3)}, AVOIDS, None, id="capacity-unknown"),
        pytest.param(of_capacity, {}, FALLS, True, id="capacity-falls"),
        pytest.param(of_capacity, {256: near(90)}, FALLS, False, id="capacity-rises"),
        pytest.param(of_capacity, {256: far(80)}, FALLS, None, id="capacity-course-unknown"),
        pytest.param(of_solaris, {MIDDLE: near(-2)}, HELP, True, id="solaris-helps"),
        pytest.param(of_solaris, {MIDDLE: near(2)}, HELP, False, id="solaris-harms"),
        pytest.param(of_solaris, {MIDDLE: far(-2)}, HELP, None, id="solaris-unknown"),
        pytest.param(of_solaris, {MIDDLE: near(-2), NOT_MIRRORED: near(1)}, MIRRORED, True, id="solaris-mirrored"),
        pytest.param(of_solaris, {MIDDLE: near(-2), NOT_MIRRORED: near(-3)}, MIRRORED, False, id="solaris-worse"),
    ],
)  # fmt: skip
def test_a_verdict_is_what_its_interval_says(
    conclude: Callable[[Given], Finding], given: Given, claim: str, agrees: bool | None
) -> None:
    (verdict,) = (one for one in conclude(given).verdicts if claim in one.claim)
    assert verdict.agrees is agrees, verdict.why


@pytest.mark.parametrize(
    ("cost", "gain", "agrees"),
    [
        pytest.param(near(0.01), near(-10), True, id="a-thousandth"),
        pytest.param(near(-1), near(-10), True, id="better"),
        pytest.param(near(1), near(-10), False, id="a-tenth"),
        pytest.param(far(0.1), near(-10), None, id="cost-unknown"),
        pytest.param(near(0.01), far(-10), None, id="gain-unknown"),
        pytest.param(near(0.01), near(10), None, id="no-gain"),
        pytest.param((0.01,), (-10.0,), None, id="one-seed"),
    ],
)
def test_a_cost_is_measured_against_a_gain(
    cost: tuple[float, ...], gain: tuple[float, ...], agrees: bool | None
) -> None:
    assert costs_nothing("It costs nothing.", estimate(cost), gain=estimate(gain)).agrees is agrees


def test_what_distillation_costs() -> None:
    arms = of_solaris({}).tables[0]
    costs = {row.name: arms.cell(row.name, "computed for training, per example") for row in arms.rows}
    assert {name for name, cost in costs.items() if cost == 1} == {*DISTILLED, NOT_MIRRORED}
    assert set(costs.values()) == {0.0, 1.0}


def test_the_row_of_the_frozen_snapshot_says_its_age() -> None:
    assert "frozen, 15 days old on the first day" in [row.name for row in of_table2({}).tables[0].rows]
