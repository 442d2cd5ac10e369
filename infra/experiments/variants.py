"""Variants of one user model's embeddings, read by the same downstream models in step: what each brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.experiments.consumers import asked
from infra.experiments.finding import Cell, Column, Row, Table
from infra.experiments.following import Joined, follow
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, estimate
from infra.experiments.study import Results, Trial

Gains = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By consumer and variant: `gain`, percent of the baseline's NE, and `against`, percent of the reference's."""


def estimates(results: Results, quantity: str, names: Sequence[str]) -> list[Estimate]:
    """Of each variant, what units of one part tell of it under this name."""
    seeds = sorted(results)
    return [estimate([results[seed]["all"][quantity][name] for seed in seeds]) for name in names]


def measure_variants(trial: Trial, joins: Mapping[str, Joined], *, reference: str) -> dict[str, Any]:
    """By consumer of `asked` and variant, over the scored days; negative where it is better."""
    first, found = trial.setting.num_settling, {}
    consumers = asked(trial.setting)
    for done, consumer in enumerate(consumers):

        def progress(line: str, share: float, done: int = done) -> None:
            trial.progress(line, (done + share) / len(consumers))

        losses = follow(trial.lab, consumer.recipe, trial.setting.followed, joins, progress=progress)
        found[str(consumer)] = {
            variant: {
                "gain": losses.diff_percent(variant, kind="eval", first=first),
                "against": losses.diff_percent(variant, kind="eval", first=first, reference=reference),
            }
            for variant in joins
        }
    return found


def gain_of(results: Results, consumer: str, variant: str, kind: str = "gain") -> Estimate:
    """Over the seeds; kind: gain or against."""
    return estimate([results[seed]["all"]["gains"][consumer][variant][kind] for seed in sorted(results)])


def names_asked(setting: Setting) -> list[str]:
    """The consumers of `asked`, by name."""
    return [str(consumer) for consumer in asked(setting.of(setting.seeds[0]))]


def variants_table(
    setting: Setting,
    results: Results,
    *,
    variants: Sequence[str],
    reference: str,
    rows_are: str,
    costs: Sequence[tuple[Column, Sequence[Cell]]],
) -> Table:
    """A row per variant: its costs, and for each consumer its gain and how it stands against the reference."""
    columns = [column for column, _ in costs]
    for name in names_asked(setting):
        columns += [Column(title=f"{name}: NE diff %", signed=True, drawn=True)]
        columns += [Column(title=f"{name}: against {reference}, %", signed=True)]
    rows = []
    for place, variant in enumerate(variants):
        cells: list[Cell] = [of_variants[place] for _, of_variants in costs]
        for name in names_asked(setting):
            against = None if variant == reference else gain_of(results, name, variant, "against")
            cells += [gain_of(results, name, variant), against]
        rows.append(Row(name=variant, cells=tuple(cells)))
    return Table(
        title="Evaluation on the next day, embeddings of a", rows_are=rows_are, columns=tuple(columns), rows=tuple(rows)
    )
