"""Table 1: what user embeddings bring to downstream models of other tasks, domains and sizes, and where they rank.

Two user models learn from different data: `a` from the clicks of domain a (the counterpart of FB CTR, which the paper
shows), `b` from the clicks and conversions of domain b. Every downstream model learns day by day in four arms: without
embeddings, with those of a, of b, and of both. Evaluation NE is that of a day before it is learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.experiments.consumers import CTR, LARGE, POST_CLICK, POST_IMPRESSION, SMALL, Consumer, consumers_of
from infra.experiments.finding import Column, Finding, Row, Table, Verdict
from infra.experiments.following import Joined, follow
from infra.experiments.importance import importance_of, num_ranked
from infra.experiments.joins import beside, served_by
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, estimate
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.verdicts import is_below_zero, text
from trainer.downstream.arms import BASELINE, Arms

A, B, BOTH = "a", "b", "both"
ARMS = (A, B, BOTH)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A row of the paper's table."""

    task: str
    domain: str
    ne_diff: float
    """Percent."""
    rank: int

    def __str__(self) -> str:
        return f"{self.task}, {self.domain}"


_PRINTED = (
    (CTR, "Mobile feed", -0.19, 2),
    (CTR, "Home feed", -0.12, 2),
    (CTR, "Mobile story", -0.16, 1),
    (CTR, "Dynamic ads", -0.12, 4),
    (CTR, "Marketplace", -0.08, 3),
    (CTR, "Channel watch", -0.12, 2),
    (CTR, "Instagram story", -0.05, 15),
    (CTR, "Messenger inbox", -0.35, 1),
    ("Post-imp offsite CVR", "Mobile feed", -0.09, 16),
    ("Post-click offsite CVR", "Mobile feed", -0.05, 13),
    ("MAI CVR", "Mobile feed", -0.04, 24),
    ("Inline CVR", "Mobile feed", -0.09, 5),
)
PAPER = tuple(Printed(task=t, domain=d, ne_diff=diff, rank=rank) for t, d, diff, rank in _PRINTED)
COUNTERPARTS = {
    f"{CTR}, a, large": PAPER[0],
    f"{CTR}, a, small": PAPER[7],
    f"{CTR}, b, large": PAPER[6],
    f"{POST_IMPRESSION}, a, large": PAPER[8],
    f"{POST_CLICK}, a, large": PAPER[9],
}
"""By row: the user model's own domain, a small model of it, the foreign domain, and the two kinds of CVR."""


def measure(trial: Trial) -> Values:
    """Every row of the part's size: `gain <arm>` in percent of the baseline's NE over the scored days, the `rank` of
    a's embeddings among so many `features`, and the `baseline NE`."""
    lab, setting = trial.lab, trial.setting
    a, b = (served_by(lab, trial.towers(setting.user_models[role])) for role in (A, B))
    joins = {A: a, B: b, BOTH: beside(a, b)}
    rows = [row for row in consumers_of(setting) if row.size == trial.unit.part]
    found = {}
    for done, row in enumerate(rows):

        def progress(line: str, share: float, done: int = done) -> None:
            trial.progress(line, (done + share) / len(rows))

        found[str(row)] = _measure_row(trial, row, joins, progress)
    return found


def _measure_row(
    trial: Trial, row: Consumer, joins: Mapping[str, Joined], progress: Callable[[str, float], None]
) -> Values:
    followed, first = trial.setting.followed, trial.setting.num_settling
    importances = []

    def before(day: int, model: Arms) -> None:
        if day == followed[-1]:
            importances.append(importance_of(trial.lab, row.recipe, model, arm=A, day=day, joined=joins[A]))

    losses = follow(trial.lab, row.recipe, followed, joins, progress=progress, before=before)
    ne = losses.ne(BASELINE, kind="eval", first=first)
    features = num_ranked(trial.lab, row.recipe)
    gains = {f"gain {arm}": losses.diff_percent(arm, kind="eval", first=first) for arm in joins}
    return {**gains, "rank": importances[0].rank, "features": features, "baseline NE": ne}


Cells = tuple[tuple[str, dict[str, str]], ...]
"""Columns, and the rows that are taken of each."""
_CTR, _A, _B = {"task": CTR}, {"task": CTR, "domain": "a"}, {"task": CTR, "domain": "b"}
CLAIMS: Mapping[str, tuple[Cells, Cells]] = {
    "CTR gains more than post-impression CVR": ((("gain a", _CTR),), (("gain a", {"task": POST_IMPRESSION}),)),
    "CTR gains more than post-click CVR": ((("gain a", _CTR),), (("gain a", {"task": POST_CLICK}),)),
    "Model a gains more in its own domain than in the other (the Instagram remark)": (
        (("gain a", _A),),
        (("gain a", _B),),
    ),
    "Model b gains more in its own domain than in the other": ((("gain b", _B),), (("gain b", _A),)),
    "Models gain more in their own domain, however hard the domains are (a in a and b in b, less a in b and b in a)": (
        (("gain a", _A), ("gain b", _B)),
        (("gain a", _B), ("gain b", _A)),
    ),
    "Small models gain more than large ones": ((("gain a", {"size": SMALL}),), (("gain a", {"size": LARGE}),)),
    "Both user models bring more than a": ((("gain both", {}),), (("gain a", {}),)),
    "Both user models bring more than b": ((("gain both", {}),), (("gain b", {}),)),
    "The embeddings rank higher in CTR than in post-click CVR models": (
        (("rank", _CTR),),
        (("rank", {"task": POST_CLICK}),),
    ),
}
"""What the paper says of its table and what it leaves open, as differences that are negative where the claim holds."""


def claims(rows: Mapping[Consumer, Mapping[str, float]]) -> dict[str, float]:
    """By claim the difference of means in one seed's rows; those claims that the rows can tell."""

    def of(cells: Cells) -> list[list[float]]:
        return [
            [row[column] for one, row in rows.items() if all(getattr(one, k) == v for k, v in chosen.items())]
            for column, chosen in cells
        ]

    sides = {claim: (of(first), of(second)) for claim, (first, second) in CLAIMS.items()}
    return {
        claim: float(np.concatenate(first).mean() - np.concatenate(second).mean())
        for claim, (first, second) in sides.items()
        if all([*first, *second])
    }


def conclude(setting: Setting, results: Results) -> Finding:
    """The table, the paper's beside it, and its claims."""
    seeds = sorted(results)
    measured = [{name: row for part in results[seed].values() for name, row in part.items()} for seed in seeds]
    of_seed = setting.of(seeds[0])
    consumers = consumers_of(of_seed)
    rows = [_row(consumer, [one[str(consumer)] for one in measured]) for consumer in consumers]
    told = [claims({consumer: one[str(consumer)] for consumer in consumers}) for one in measured]
    columns = [Column(title=f"NE diff %, embeddings of {arm}", signed=True, drawn=True) for arm in ARMS]
    columns += [Column(title="FI of a", digits=1), Column(title="features", digits=0)]
    columns += [Column(title="baseline NE", digits=4), Column(title="paper: counterpart")]
    columns += [Column(title="paper: NE diff %", digits=2, signed=True), Column(title="paper: FI", digits=0)]
    paper = tuple(Row(name=str(one), cells=(one.ne_diff, float(one.rank))) for one in PAPER)
    return Finding(
        name=STUDY.name,
        title="Table 1: downstream models with user embeddings",
        setting=setting.name,
        seeds=tuple(seeds),
        tables=(
            Table(
                title="Evaluation on the next day",
                rows_are="downstream model",
                columns=tuple(columns),
                rows=tuple(rows),
            ),
            Table(
                title="The paper's Table 1",
                rows_are="downstream model",
                columns=(Column(title="NE diff %", digits=2, signed=True), Column(title="FI", digits=0)),
                rows=paper,
            ),
        ),
        verdicts=(
            _everywhere(rows),
            *(
                is_below_zero(f"{claim}.", estimate([one[claim] for one in told]), unit=_unit(claim))
                for claim in told[0]
            ),
        ),
        notes=(NOTE,),
    )


NOTE = (
    "The paper's gains are those of models that already have thousands of features and years of data; ours have at "
    "most two dozen features and two weeks, so percent here stand against hundredths of a percent there: signs and "
    "orders compare, sizes do not. FI is the mean rank over the seeds. A small model here has fewer features of its "
    "own and is narrower, two things that act against each other; `experiments sizes` varies each alone."
)


def _row(consumer: Consumer, measured: Sequence[Values]) -> Row:
    def of(column: str) -> Estimate:
        return estimate([one[column] for one in measured])

    paper = COUNTERPARTS.get(str(consumer))
    printed = (None, None, None) if paper is None else (str(paper), paper.ne_diff, float(paper.rank))
    gains = (of(f"gain {arm}") for arm in ARMS)
    return Row(
        name=str(consumer),
        cells=(*gains, of("rank").mean, float(measured[0]["features"]), of("baseline NE").mean, *printed),
    )


def _unit(claim: str) -> str:
    ((column, _), *_), _ = CLAIMS[claim]
    return "ranks" if column == "rank" else "points of NE diff %"


def _everywhere(rows: Sequence[Row]) -> Verdict:
    """Of the embeddings of a, as the paper's table shows one user model."""
    gains = [(row.name, row.cells[0]) for row in rows]
    told = [(name, gain) for name, gain in gains if isinstance(gain, Estimate)]
    harmed = [name for name, gain in told if gain.sign > 0]
    unsure = [f"{name} ({text(gain)})" for name, gain in told if gain.sign == 0]
    agrees = False if harmed else None if unsure else True
    why = f"{sum(gain.sign < 0 for _, gain in told)} of {len(told)} intervals lie below zero"
    why += f"; above it: {', '.join(harmed)}" if harmed else ""
    why += f"; not told from zero: {', '.join(unsure)}" if unsure else ""
    return Verdict(claim="Embeddings bring significant gains to every task and domain.", agrees=agrees, why=f"{why}.")


STUDY = Study(name="table1", measure=measure, conclude=conclude, parts=(SMALL, LARGE))
