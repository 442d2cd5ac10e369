"""How far models are from the best that anybody could predict of the synthetic world, whose truth is known.

Three bounds, each the NE of a predictor that nothing has to learn: one that knows a user's taste and the item (the
truth), one that knows the world and the item but not the user (nothing without user features does better), and the rate
alone (NE 1). Between the first two lies all that is to be gained from knowing users; nobody gains all of it, since
features only observe tastes, with noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from features.lake import Lake
from features.schema import EVENT_TIME, USER_ID
from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_world import DAY_US, World
from features.windows import Windows, pieces_of
from infra.experiments.finding import Column, Finding, Row, Table, Verdict
from infra.experiments.following import follow
from infra.experiments.joins import beside, served_by
from infra.experiments.lab import Lab
from infra.experiments.setting import Setting
from infra.experiments.statistics import Estimate, estimate
from infra.experiments.study import Results, Study, Trial, Values, by_seed
from trainer.downstream.arms import BASELINE
from trainer.metrics import normalized_entropy
from trainer.recipe import DownstreamRecipe

Floats = npt.NDArray[np.float64]

TRUTH, ITEM = "the truth", "the item, not the user"
KNOWING, LARGE = "with embeddings", "large"
ORDER = (TRUTH, f"{LARGE} {KNOWING}", LARGE, f"small {KNOWING}", "small", ITEM)


@dataclass(kw_only=True)
class Best:
    """Summed cross entropy in nats of the predictors that know the world."""

    num_examples: int = 0
    num_positives: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, labels: Floats, probabilities: Mapping[str, Floats]) -> None:
        """Some examples, [N] each."""
        self.num_examples += len(labels)
        self.num_positives += int(labels.sum())
        for name, p in probabilities.items():
            loss = -(labels * np.log(p) + (1 - labels) * np.log1p(-p)).sum()
            self.losses[name] = self.losses.get(name, 0.0) + float(loss)

    def ne(self, name: str) -> float:
        """Eq. 9."""
        return normalized_entropy(self.losses[name], positives=self.num_positives, examples=self.num_examples)


def best(lab: Lab, consumer: DownstreamRecipe, days: Sequence[int]) -> Best:
    """On the consumer's examples of these days. ValueError where the truth is not known."""
    source, found = lab.source, Best()
    if not isinstance(source, SyntheticWorld) or source.permuted_labels:
        raise ValueError(f"the truth of source {source.name} is not known; ask for that of a synthetic world")
    for day in days:
        _add_day(found, World(source), consumer, lab.lake, lab, day)
    return found


def _add_day(found: Best, world: World, consumer: DownstreamRecipe, lake: Lake, lab: Lab, day: int) -> None:
    pieces = pieces_of(lake.dataset(lake.get(f"examples/{lab.source.name}", lab.days[day])), consumer.examples)
    rows = Windows(pieces, [USER_ID, EVENT_TIME, "item", consumer.task]).read(0, sum(p.num_rows for p in pieces))
    ordinal = lab.days[day].toordinal()
    items = rows.column("item").combine_chunks().flatten().to_numpy()
    fraction = rows.column(EVENT_TIME).cast("int64").to_numpy() % DAY_US / DAY_US
    offered, which = np.unique(items, return_inverse=True)
    truth = world.probabilities(rows.column(USER_ID).to_numpy(), items, ordinal, fraction)
    of_item = tuple(p[which] for p in world.of_everybody(offered, ordinal))
    labels = rows.column(consumer.task).to_numpy().astype(np.float64)
    found.add(labels, {TRUTH: _of_task(truth, consumer), ITEM: _of_task(of_item, consumer)})


def _of_task(probabilities: Sequence[Floats], consumer: DownstreamRecipe) -> Floats:
    """P(label) of the consumer's examples, from P(click) and P(conversion | click)."""
    click, conversion = probabilities
    if consumer.task == "click":
        return click
    clicked = any(one.column == "click" and one.values == (1,) for one in consumer.examples)
    return conversion if clicked else click * conversion


def large(consumer: DownstreamRecipe, setting: Setting) -> DownstreamRecipe:
    """With every feature of the user, and wider."""
    schema = setting.source.schema
    features = [f.name for f in schema.sparse_of("user")] + [f.name for f in schema.dense_of("user")]
    return replace(consumer, name=f"{consumer.name}_large", user_features=tuple(features), hidden=(256, 128))


def measure(trial: Trial) -> Values:
    """NE of one consumer, small and large, without and with the embeddings of all user models, and of the bounds."""
    setting, lab, consumer = trial.setting, trial.lab, trial.setting.consumers[trial.unit.part]
    first = setting.num_settling
    bound = best(lab, consumer, setting.followed[first:])
    found = {name: bound.ne(name) for name in (TRUTH, ITEM)}
    joined = beside(*(served_by(lab, towers) for towers in trial.models().values()))
    for number, (size, recipe) in enumerate((("small", consumer), (LARGE, large(consumer, setting)))):

        def progress(line: str, share: float, number: int = number) -> None:
            trial.progress(line, (number + share) / 2)

        losses = follow(lab, recipe, setting.followed, {KNOWING: joined}, progress=progress)
        found[size] = losses.ne(BASELINE, kind="eval", first=first)
        found[f"{size} {KNOWING}"] = losses.ne(KNOWING, kind="eval", first=first)
    return found


def conclude(setting: Setting, results: Results) -> Finding:
    """NE by consumer, and the share of what there is to gain."""
    parts = sorted({part for of_seed in results.values() for part in of_seed})
    columns = [Column(title=name, digits=4) for name in ORDER]
    rows = [Row(name=part, cells=tuple(_ne(results, part, name) for name in ORDER)) for part in parts]
    shares = [Row(name=part, cells=tuple(_share(results, part, size) for size in ("small", LARGE))) for part in parts]
    return Finding(
        name="ceiling",
        title="The best possible NE of the synthetic world",
        setting=setting.name,
        seeds=tuple(sorted(results)),
        tables=(
            Table(title="NE on the next day", rows_are="consumer", columns=tuple(columns), rows=tuple(rows)),
            Table(
                title="Reached of what knowing users is worth, %: from not knowing the user (0) to the truth (100)",
                rows_are="consumer",
                columns=tuple(
                    Column(title=f"{size} {KNOWING}", digits=1, drawn=True, signed=True) for size in ("small", LARGE)
                ),
                rows=tuple(shares),
            ),
        ),
        verdicts=(_possible(results, parts),),
        notes=(
            "The truth knows tastes, which no feature shows without noise. A consumer may stand above the NE of the "
            "item alone: that predictor knows every item's vector and the whole population, and has nothing to learn.",
        ),
    )


def _ne(results: Results, part: str, name: str) -> Estimate:
    return estimate(by_seed(results, lambda parts: parts[part][name]))


def _share(results: Results, part: str, size: str) -> Estimate:
    def share(parts: Mapping[str, Values]) -> float:
        of = parts[part]
        return float(100 * (of[ITEM] - of[f"{size} {KNOWING}"]) / (of[ITEM] - of[TRUTH]))

    return estimate(by_seed(results, share))


def _possible(results: Results, parts: Sequence[str]) -> Verdict:
    """Nothing predicts better than the truth: if something did, it would know the labels."""
    least = {
        part: min(of[part][name] - of[part][TRUTH] for of in results.values() for name in ORDER[1:]) for part in parts
    }
    return Verdict(
        claim="No model predicts better than the truth.",
        agrees=min(least.values()) > 0,
        why="; ".join(f"{part}: the nearest is {gap:+.4f} NE away" for part, gap in least.items()) + ".",
    )


STUDY = Study(name="ceiling", measure=measure, conclude=conclude, parts=("ctr_a", "ctr_b", "cvr_a", "cvr_b"))
