"""A consumer that was trained on version v of the embeddings and is given version v - 3 … v + 3 of the same inputs.

The consumer is the downstream model as it stood after the day that joined version v. It is scored, unchanged, on a
day that no version and no consumer has learnt from, v + 4, with every version's embeddings of the same users and the
same features. So nothing but the version differs, and no version has seen the labels. With pooling, version w is the
average of what w, w - 1 and w - 2 give for those features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np

from features.lake import Lake
from features.reader import DayReader
from infra.settings import Settings
from tests.experiments.published import Published
from trainer.downstream.arms import SUM, Arms, own_features, shape_of, small_tables, with_and_without
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, NewestEmbeddings
from trainer.downstream.scores import Comparison, compare
from trainer.recipe import DownstreamRecipe, Recipe

SKEWS = tuple(range(-3, 4))
SCORED_AFTER = 4
_FIRST = 5
"""The first v, counted from 0: version v - 3 is pooled with two before it."""
_BATCH = 8_192


@dataclass(kw_only=True)
class Skew:
    """A strategy's sweep."""

    strategy: str
    ne: dict[int, list[float]] = field(default_factory=dict)
    """By skew w - v: eval NE with the embeddings of w, one per v."""
    diff: dict[int, list[float]] = field(default_factory=dict)
    """Percent against the baseline without embeddings."""


def versions(days: Sequence[date]) -> range:
    """The same v of every strategy. ValueError where there are too few days."""
    if len(days) <= _FIRST + SCORED_AFTER:
        raise ValueError(f"{len(days)} days; the sweep takes at least {_FIRST + SCORED_AFTER + 1}")
    return range(_FIRST, len(days) - SCORED_AFTER)


def sweep(
    published: Published, days: Sequence[date], *, recipe: Recipe, downstream: DownstreamRecipe, settings: Settings
) -> Skew:
    """Every v, with every version."""
    found = Skew(strategy=published.strategy.name)
    for version in versions(days):
        arms = consumer_of(published, days[version + 1], recipe=recipe, downstream=downstream, settings=settings)
        for skew in SKEWS:
            scored = score(arms, published, version + skew, version + SCORED_AFTER, days=days, recipe=recipe,
                           downstream=downstream, lake=Lake(settings.lake))  # fmt: skip
            found.ne.setdefault(skew, []).append(scored.sum.ne or np.nan)
            found.diff.setdefault(skew, []).append(scored.ne_diff_percent)
    return found


def consumer_of(
    published: Published, ds: date, *, recipe: Recipe, downstream: DownstreamRecipe, settings: Settings
) -> Arms:
    """The downstream model as it stood after `ds`."""
    checkpoints = Checkpoints(settings, published.partitions[0].table.rpartition("/")[2])
    arms = with_and_without(downstream, small_tables(recipe.source.schema), [shape_of(recipe.user_tower)])
    arms.load(checkpoints.load(next(day for day in checkpoints.days() if day.ds == ds)))
    return arms


def score(
    arms: Arms,
    published: Published,
    version: int,
    day: int,
    *,
    days: Sequence[date],
    recipe: Recipe,
    downstream: DownstreamRecipe,
    lake: Lake,
) -> Comparison:
    """The consumer on the examples of the day, with `version`'s embeddings of the users as of the day before."""
    schema = small_tables(recipe.source.schema)
    encoder = JoiningEncoder(
        schema,
        task=downstream.task,
        features=own_features(downstream, schema),
        embeddings={SUM: embeddings(published, version, day, lookback=downstream.lookback_days)},
    )
    examples = lake.get(f"examples/{recipe.source.name}", days[day])
    reader = DayReader(lake, examples, encoder, batch_size=_BATCH, seed=downstream.seed)
    return compare(arms.evaluate(cast(JoinedBatch, batch) for batch in reader)).everyone


def embeddings(published: Published, version: int, day: int, *, lookback: int) -> NewestEmbeddings:
    """Of every user active before the day, with the features of the newest such day."""
    earlier = range(day - 1, max(day - 1 - lookback, -1), -1)
    users = [published.towers.users[index].ids for index in earlier]
    versions = range(version, version - published.strategy.pooling, -1)
    vectors = [np.mean([published.computed(w, index) for w in versions], axis=0) for index in earlier]
    ids, places = np.unique(np.concatenate(users), return_index=True)  # the first is of the newest day
    ages = np.concatenate([np.full(len(of_day), day - index) for of_day, index in zip(users, earlier, strict=True)])
    return NewestEmbeddings(
        user_ids=ids, vectors=np.concatenate(vectors)[places].astype(np.float16), age_days=ages[places]
    )


def table(skews: Sequence[Skew]) -> Iterator[str]:
    """Markdown: eval NE difference to the baseline in percent, mean over v."""
    yield f"| eval NE diff %, by version - v | {' | '.join(f'{skew:+d}' for skew in SKEWS)} |"
    yield f"|{'---|' * (len(SKEWS) + 1)}"
    for one in skews:
        yield f"| {one.strategy} | {' | '.join(f'{np.mean(one.diff[skew]):+.2f}' for skew in SKEWS)} |"


def draw(skews: Sequence[Skew], to: Path) -> None:
    """The table as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for one in skews:
        axes.plot(SKEWS, [np.mean(one.diff[skew]) for skew in SKEWS], marker="o", label=one.strategy)
    axes.set(xlabel="version given - version trained on, days", ylabel="eval NE against no embeddings, %")
    axes.legend(fontsize=8)
    figure.savefig(to, dpi=120)
