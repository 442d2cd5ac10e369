"""Table 3: how far the embeddings of the same users move between consecutive days, by number of pooled versions.

And what of it is the model's doing: the same features through two days' snapshots, and two days' features through one
snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from infra.experiments.finding import Cell, Column, Finding, Row, Table, Verdict
from infra.experiments.lab import Computed
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, difference, estimate
from infra.experiments.study import Results, Study, Trial, Values, by_seed
from infra.experiments.towers import DailyTowers
from infra.experiments.verdicts import all_of, has_sign, text
from snapshots.movement import movement

POOLED = (1, 2, 3, 4, 5)
PAPER = {("none", 0): (0.87, 13.0), ("3", 0): (0.97, 5.0), ("none", 1): (0.97, 5.0), ("3", 1): (0.99, 2.0)}
"""Cosine and norm change in percent, by pooling and embedding."""
MUCH = 0.05
"""A difference in cosine between two embeddings, half of the paper's."""
PARTS = ("model alone", "features alone")


def measure(trial: Trial) -> Values:
    """By user model, kind and embedding: (cosine, norm change in percent), means over users, then over days."""
    found = {}
    for number, (role, recipe) in enumerate(trial.setting.user_models.items(), start=1):
        found[role] = _measure(trial, trial.towers(recipe))
        trial.progress(f"user model {role}", number / len(trial.setting.user_models))
    return found


def _measure(trial: Trial, towers: DailyTowers) -> Values:
    days = list(trial.setting.followed)[1:]
    pairs: dict[str, list[tuple[Computed, Computed]]] = {}
    lab = trial.lab
    for day in days:
        for versions in POOLED:
            pair = tuple(lab.served(towers, of, versions=versions) for of in (day - 1, day))
            pairs.setdefault(_pooling(versions), []).append((pair[0], pair[1]))
        alone, other = lab.computed(towers, day, version=day - 1), lab.computed(towers, day)
        pairs.setdefault(PARTS[0], []).append((alone, other))
        pairs.setdefault(PARTS[1], []).append((lab.computed(towers, day - 1), alone))
    return {kind: _means(of_kind) for kind, of_kind in pairs.items()}


def _pooling(versions: int) -> str:
    return "none" if versions == 1 else str(versions)


def _means(pairs: list[tuple[Computed, Computed]]) -> list[list[float]]:
    """[K][2]"""
    days = []
    for before, after in pairs:
        _, a, b = np.intersect1d(before.user_ids, after.user_ids, assume_unique=True, return_indices=True)
        moved = [movement(before.vectors[a, k], after.vectors[b, k]) for k in range(after.vectors.shape[1])]
        days.append([[float(of.cosine.mean()), 100 * float(of.norm_change.mean())] for of in moved])
    means: list[list[float]] = np.mean(days, axis=0).tolist()
    return means


def conclude(setting: Setting, results: Results) -> Finding:
    """Beside the paper's numbers."""
    kinds = next(iter(results.values()))["all"]
    return Finding(
        name="table3",
        title="Table 3: embeddings of the same users on consecutive days",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=tuple(_table(results, role, kinds[role]) for role in kinds),
        verdicts=tuple(_verdicts(results, next(iter(kinds)))),
        notes=(
            "`none` and `2` to `5`: what consumers are served, on two days in a row: another snapshot and other "
            "features. `model alone`: one day's features through the snapshots of two days. `features alone`: two "
            "days' features through one snapshot. Means over the users of both days and the last "
            f"{setting.num_followed - 1} pairs of days.",
        ),
    )


def _value(results: Results, role: str, kind: str, k: int, which: int) -> Estimate:
    return estimate(by_seed(results, lambda parts: parts["all"][role][kind][k][which]))


def _table(results: Results, role: str, kinds: Mapping[str, list[list[float]]]) -> Table:
    columns = (
        Column(title="cosine, paper", digits=2, marks=True),
        Column(title="cosine", drawn=True),
        Column(title="norm change %, paper", digits=0, marks=True),
        Column(title="norm change %", digits=1, drawn=True),
    )
    rows = []
    for kind, of_kind in kinds.items():
        for k in range(len(of_kind)):
            paper = PAPER.get((kind, k), (None, None))
            cells: tuple[Cell, ...] = (
                paper[0], _value(results, role, kind, k, 0), paper[1], _value(results, role, kind, k, 1)
            )  # fmt: skip
            rows.append(Row(name=f"Embedding{k}, {_title(kind)}", cells=cells))
    rows.sort(key=lambda row: row.name.split(",")[0])
    return Table(title=f"User model {role}", rows_are="embedding, pooling", columns=columns, rows=tuple(rows))


def _title(kind: str) -> str:
    return kind if kind in PARTS else f"pooling {kind}"


def _verdicts(results: Results, role: str) -> Iterator[Verdict]:
    def gain(which: int, k: int) -> Estimate:
        values = [_value(results, role, kind, k, which).values for kind in ("3", "none")]
        return difference(*values)

    num = len(next(iter(results.values()))["all"][role]["none"])
    moved = [gain(0, k) for k in range(num)]
    yield Verdict(
        claim="Pooling three versions moves every embedding less.",
        agrees=all_of(moved, sign=+1),
        why="cosine " + ", ".join(f"{of.mean:+.3f} (Embedding{k})" for k, of in enumerate(moved)) + ".",
    )
    norms = [gain(1, k) for k in range(num)]
    none, pooled = (_value(results, role, kind, 0, 1).mean for kind in ("none", "3"))
    yield Verdict(
        claim="Pooling three versions changes every embedding's norm less.",
        agrees=all_of(norms, sign=-1),
        why=f"{none:.2f} % without pooling, {pooled:.2f} % with it (Embedding0). Our user tower bounds the length of "
        "what it gives: vectors at the bound keep their length, and an average of several is the shorter the more "
        "they differ.",
    )
    model, features = (_value(results, role, kind, 0, 0) for kind in PARTS)
    yield Verdict(
        claim="The same user's features give other embeddings with the next day's snapshot.",
        agrees=has_sign(difference(model.values, [1.0] * len(model.values)), -1),
        why=f"cosine {text(model)} where the snapshot changes alone (Embedding0).",
    )
    apart = difference(model.values, features.values)
    yield Verdict(
        claim="A user's embeddings move more by a new snapshot than by a day of new features (not asked in the paper).",
        agrees=has_sign(apart, -1),
        why=f"cosine {model.mean:.3f} where the snapshot changes alone, {features.mean:.3f} where the user's features "
        "do (Embedding0).",
    )
    if num > 1:
        yield _between(results, role)


def _between(results: Results, role: str) -> Verdict:
    """The first two embeddings, whichever of them is the more stable in a seed."""
    both = (_value(results, role, "none", k, 0).values for k in (0, 1))
    between = estimate([abs(a - b) for a, b in zip(*both, strict=True)])
    return Verdict(
        claim=f"One of the two embeddings is much more stable than the other: by more than {MUCH} in cosine (the "
        "paper: 0.10).",
        agrees=has_sign(difference(between.values, [MUCH] * len(between.values)), +1),
        why=f"{text(between)} lie between them without pooling, whichever is the more stable: nothing but their "
        "initial weights tells the two outputs of the last module apart.",
    )


STUDY = Study(name="table3", measure=measure, conclude=conclude)
