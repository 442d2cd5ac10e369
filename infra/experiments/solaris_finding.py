"""What the SOLARIS study found, from what was measured of every seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.experiments.finding import Cell, Column, Curve, Finding, Row, Table, Verdict
from infra.experiments.setting import Setting
from infra.experiments.solaris_arms import (
    BOTH,
    BUDGET,
    BUDGETS,
    COMPUTED_FOR_TRAINING,
    DISTILLED,
    EXACT_ONLY,
    INDEPENDENT,
    KNOWN,
    MEANS_ONLY,
    NOT_MIRRORED,
    ORACLE,
    REPEATED,
    SERVED,
    WEIGHTS,
    budget_arm,
    distilled_arm,
    known_arm,
)
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results
from trainer.downstream.arms import BASELINE, SUM

TITLES = {
    INDEPENDENT: "items by popularity, whoever the user is",
    REPEATED: "half of the events repeat what the user was shown lately",
}
TO_SUM, COVERED = "NE to SUM %", "covered %"
PREDICTORS = ("predictor", "popularity", "random")


def conclude(setting: Setting, results: Results) -> Finding:
    """Gain, coverage and cost by arm; recall by predictor; what they say."""
    parts = [part for part in (INDEPENDENT, REPEATED) if all(results[seed].get(part) for seed in results)]
    first = next(iter(results.values()))[parts[0]]
    tables = [_arms(results, part) for part in parts] + [_recalls(results, part) for part in parts]
    return Finding(
        name="solaris",
        title="SOLARIS: representations of pairs, computed before they are asked for",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=tuple(tables),
        verdicts=tuple(verdict for part in parts for verdict in _verdicts(results, part)),
        curves=tuple(_curve(results, part) for part in parts),
        notes=(
            "`pairs n`: the n likeliest pairs per request of a day are computed before the day; a miss is computed "
            "from the request, and is there a minute later. `exact`: without the means of the user's and of the item's "
            "other pairs; `means`: with nothing but these. `not mirrored`: learns from the representations of all its "
            "examples, and is served what there is. `known n`: that share of the day's pairs is computed before the "
            "day, whichever they are. `oracle`: computed at the request, from its features. `distilled w`: learns from "
            "the foundation model's logits too, with weight w; nothing is computed for its requests, but for every "
            "example that it learns from (`computed for training`), as for `not mirrored`. Every arm but the baseline "
            "has the user's SUM embeddings, unless it says baseline.",
            "The SUM embeddings are of the foundation model's own user tower. A user costs "
            f"{first['mflop_user']:.2f} MFLOP, a pair {first['mflop_pair']:.2f}; `computed` counts pairs.",
        ),
    )


def _value(results: Results, part: str, arm: str, name: str) -> Estimate:
    return estimate([results[seed][part]["arms"][arm][name] for seed in sorted(results)])


def _arms(results: Results, part: str) -> Table:
    columns = (
        Column(title=TO_SUM, digits=2, signed=True, drawn=True),
        Column(title="NE to none %", digits=2, signed=True),
        Column(title="exact %", digits=1),
        Column(title="user %", digits=1),
        Column(title="neighbours %", digits=1),
        Column(title=COVERED, digits=1),
        Column(title="age h", digits=1),
        Column(title="computed per request", digits=2),
        Column(title="computed for training, per example", digits=2),
    )
    rows = [Row(name=arm, cells=tuple(_cells(results, part, arm))) for arm in (BASELINE, SUM, *SERVED, *DISTILLED)]
    return Table(title=f"By arm: {TITLES[part]}", rows_are="arm", columns=columns, rows=tuple(rows))


def _cells(results: Results, part: str, arm: str) -> Iterator[Cell]:
    yield None if arm == SUM else _value(results, part, arm, "to_sum")
    yield None if arm == BASELINE else _value(results, part, arm, "to_baseline")
    known: Mapping[str, Any] = next(iter(results.values()))[part]["arms"][arm]
    yield from _served(results, part, arm) if "exact" in known else [None] * 6
    yield COMPUTED_FOR_TRAINING.get(arm, 0.0)


def _served(results: Results, part: str, arm: str) -> Iterator[Cell]:
    """Levels, age and cost."""
    for level in ("exact", "user", "neighbours"):
        yield 100 * _value(results, part, arm, level).mean
    yield 100 * (1 - _value(results, part, arm, "zero").mean)
    ages = [results[seed][part]["arms"][arm]["age_hours"] for seed in sorted(results)]
    yield None if None in ages else estimate(ages).mean
    yield _value(results, part, arm, "forwards").mean


def _curve(results: Results, part: str) -> Curve:
    """Gain over exact coverage."""
    series = {
        "pairs computed ahead, with fallbacks": [budget_arm(budget) for budget in BUDGETS],
        "a share of the pairs, without": [*(known_arm(share) for share in KNOWN)],
    }
    best = _best_distilled(results, part)
    return Curve(
        title=f"Gain over coverage: {TITLES[part]}",
        x="requests served their own pair, %",
        y=TO_SUM,
        series={
            name: tuple(
                (100 * _value(results, part, arm, "exact").mean, _value(results, part, arm, "to_sum")) for arm in arms
            )
            for name, arms in series.items()
        },
        across={arm: _value(results, part, arm, "to_sum") for arm in (best, ORACLE)},
    )


def _best_distilled(results: Results, part: str) -> str:
    """The weight with which distillation beside the SUM embeddings gives the lowest loss."""
    return min(map(distilled_arm, WEIGHTS), key=lambda arm: _value(results, part, arm, "to_sum").mean)


def _recalls(results: Results, part: str) -> Table:
    columns = tuple(Column(title=f"{name} %", digits=1, drawn=name == PREDICTORS[0]) for name in PREDICTORS)
    recalls, rows = [results[seed][part]["recalls"] for seed in sorted(results)], []
    for budget in BUDGETS[1:]:
        cells = (estimate([100 * of[f"{name} {budget:g}"] for of in recalls]) for name in PREDICTORS)
        rows.append(Row(name=f"{budget:g}", cells=tuple(cells)))
    weight = estimate([of["own weight"] for of in recalls]).mean
    return Table(
        title=f"Requests whose pair was predicted: {TITLES[part]}; weight of the user's own {weight:.2f}",
        rows_are="pairs per request",
        columns=columns,
        rows=tuple(rows),
    )


def _verdicts(results: Results, part: str) -> Iterator[Verdict]:
    def gain(arm: str) -> Estimate:
        return _value(results, part, arm, "to_sum")

    def better(claim: str, arm: str, than: str) -> Verdict:
        apart = difference(gain(arm).values, gain(than).values)
        agrees = None if apart.half is None or not apart.sign else apart.sign < 0
        why = f"NE {gain(arm).mean:+.2f} % ({arm}) and {gain(than).mean:+.2f} % ({than}) to SUM."
        return Verdict(claim=f"{claim} ({part})", agrees=agrees, why=why)

    middle, most = budget_arm(BUDGET), budget_arm(max(BUDGETS))
    best = _best_distilled(results, part)
    yield better("The foundation model's pairs tell a consumer what the user's embeddings do not.", ORACLE, SUM)
    yield better("Precomputed pairs help.", middle, SUM)
    yield better("A greater budget helps more.", most, budget_arm(0))
    yield better("What stands in for a pair helps.", middle, EXACT_ONLY)
    yield better("It is the pair that helps, not the mean of its user's.", middle, MEANS_ONLY)
    yield better("Misses have to be mirrored in what the consumer learns from.", middle, NOT_MIRRORED)
    yield better("Precomputed pairs beat distillation.", middle, best)
    yield better("Distillation and precomputed pairs together beat the pairs alone.", BOTH, middle)
