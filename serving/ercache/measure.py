"""The NE that a direct cache costs a consumer, measured on a day of real requests, by TTL and by the staleness it adds.

Every request of some days is embedded from its own features by one snapshot, which has learnt from none of the days
that the consumer sees. The consumer learns from the two days before the scored one, each request joined with what
serving without a direct cache would have answered: the mean of the newest inferences of the user, as many as the recipe
pools. It is then scored, unchanged, on the day with what direct caches of several TTLs would have answered. So nothing
but the cache differs, and its cost is that of the day on which it is switched on: a consumer that learns from what it
answers may mind it less (`learnt_ttl`). Consumers of several seeds are learnt, as they differ by more than a cache
costs; their cross entropies are averaged.

An answer's added staleness is how much older its newest inference is than without a cache. Its cost is the mean
difference of the cross entropy to the answer without a cache, over all answers of all TTLs whose added staleness is in
the same range: paired, and of the requests to which a cache does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import softplus

from features.columns import Ids
from features.days import days_between
from features.lake import Lake
from features.reader import DayReader
from serving.ercache.answers import Answers, Embedded, RequestEncoder, embed
from serving.ercache.relation import NeByStaleness
from serving.ercache.replay import NOBODY
from snapshots.embedder import Embedder
from trainer.downstream.arms import BASELINE, SUM, Arms, shape_of, small_tables, with_and_without
from trainer.downstream.joined import JoinedBatch, NewestEmbeddings
from trainer.downstream.rate import positive_rate
from trainer.recipe import DownstreamRecipe, Recipe

LEARNT_DAYS = 2
HISTORY_DAYS = LEARNT_DAYS + 1
"""Days before the scored one whose requests are embedded: the first gives the learnt days their past."""
TTLS = (10.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
RANGES = (0.0, 10.0, 29.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
"""Bounds of added staleness, seconds, the lower one excluded."""
_BATCH = 8_192

Floats = NDArray[np.float64]
Batches = Callable[[date, DownstreamRecipe, int], Iterator[JoinedBatch]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A scored day; NE is the mean over consumers of different seeds."""

    ds: date
    num_requests: int
    num_examples: int
    ne_without: float
    """Of the arm that knows no embeddings."""
    ne_fresh: float
    """With inferences of the requests' own features alone, which the consumer has not learnt from."""
    by_ttl: dict[float, float]
    """NE with a direct cache of so many seconds, all requests; 0: without."""
    cost_error: dict[float, float]
    """Standard error, over the seeds, of a TTL's NE less that without a cache; not a number for a single seed."""
    relation: NeByStaleness
    """By added staleness."""


def measure(
    recipe: Recipe,
    downstream: DownstreamRecipe,
    ds: date,
    embedder: Embedder,
    *,
    lake: Lake,
    ttls: Sequence[float] = TTLS,
    learnt_ttl: float = 0.0,
    seeds: Sequence[int] = (0,),
) -> Measured:
    """The consumer, learnt anew, scored on `ds`. `embedder`: a snapshot from before the learnt days and the one before.

    learnt_ttl: the consumer learns from what a direct cache of this TTL, one of `ttls`, answers.
    MissingPartitionError where examples of the scored day or of those before it are not in the lake.
    """
    days = list(days_between(ds - timedelta(days=HISTORY_DAYS), ds))
    embedded = embed(recipe, days, embedder, lake=lake)
    policy = replace(recipe.serving, failover_seconds=float("inf"), max_inferences_per_second=float("inf"))
    ways = {ttl: embedded.answers(replace(policy, direct_seconds=ttl)) for ttl in (0.0, *ttls)}
    batches = _reader(recipe, embedded, embedded.table(ways[learnt_ttl]), lake)
    found = []
    for seed in seeds:
        consumer = replace(downstream, seed=seed)
        arms = with_and_without(consumer, small_tables(recipe.source.schema), [shape_of(recipe.user_tower)])
        arms.start_at(positive_rate(lake, lake.get(f"examples/{recipe.source.name}", days[1]), consumer))
        for learnt in days[1:-1]:
            arms.train(batches(learnt, consumer, downstream.batch_size))
        found.append(_losses(arms, batches(ds, downstream, _BATCH), embedded, ways))  # all in the same order
    return _measured(recipe.name, ds, embedded, ways, found)


def _reader(recipe: Recipe, embedded: Embedded, embeddings: NewestEmbeddings, lake: Lake) -> Batches:
    def batches(day: date, consumer: DownstreamRecipe, batch_size: int) -> Iterator[JoinedBatch]:
        encoder = RequestEncoder(recipe, consumer, embedded, embeddings)
        examples = lake.get(f"examples/{recipe.source.name}", day)
        reader = DayReader(lake, examples, encoder, batch_size=batch_size, seed=consumer.seed, where=consumer.examples)
        return (cast(JoinedBatch, batch) for batch in reader)

    return batches


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """One consumer's, of the M scored examples: cross entropy in nats."""

    places: Ids
    """Of the requests."""
    labels: Floats
    without: Floats
    fresh: Floats
    by_ttl: dict[float, Floats]


@torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
def _losses(arms: Arms, batches: Iterator[JoinedBatch], embedded: Embedded, ways: Mapping[float, Answers]) -> _Losses:
    """One pass over the day; each batch is scored with every TTL's answers."""
    own = Answers(newest=np.arange(len(embedded)), before=np.full(len(embedded), NOBODY))
    rows: list[list[NDArray[Any]]] = []
    for batch in batches:
        real = len(batch.keys)  # padding is at the end
        inputs, labels = dict(arms.inputs(batch)), batch.labels[:real, 0].double()
        logits = [arms.arms[BASELINE].predict(inputs[BASELINE])]
        for way in (own, *ways.values()):
            vectors, flags = map(torch.zeros_like, (inputs[SUM].users, inputs[SUM].has_embedding))
            pooled, known = embedded.pooled(way, batch.keys)
            vectors[:real], flags[:real, 0] = torch.from_numpy(pooled), torch.from_numpy(known)
            logits.append(arms.arms[SUM].predict(replace(inputs[SUM], users=vectors, has_embedding=flags)))
        losses = [(softplus(of[:real].double()) - labels * of[:real]).numpy() for of in logits]
        rows.append([batch.keys, labels.numpy(), *losses])
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    by_ttl = dict(zip(ways, columns[4:], strict=True))
    return _Losses(places=columns[0], labels=columns[1], without=columns[2], fresh=columns[3], by_ttl=by_ttl)


def _measured(
    model: str, ds: date, embedded: Embedded, ways: Mapping[float, Answers], found: Sequence[_Losses]
) -> Measured:
    places, labels = found[0].places, found[0].labels
    assert all(np.array_equal(of.places, places) for of in found), "consumers were scored in different orders"
    rate = labels.mean()
    entropy = float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))  # Eq. 9
    costs = {ttl: np.mean([of.by_ttl[ttl] - of.by_ttl[0.0] for of in found], axis=0) for ttl in ways}  # [M] each
    start = float(np.mean([of.by_ttl[0.0].mean() for of in found])) / entropy
    ne_without = float(np.mean([of.without.mean() for of in found])) / entropy
    errors = {ttl: _standard_error([(of.by_ttl[ttl] - of.by_ttl[0.0]).mean() for of in found]) for ttl in ways}
    added, typical_cost = _by_range(
        *(np.concatenate(of) for of in zip(*_changed(embedded, ways, costs, places), strict=True))
    )
    return Measured(
        ds=ds,
        num_requests=np.unique(places).size,
        num_examples=labels.size,
        ne_without=ne_without,
        ne_fresh=float(np.mean([of.fresh.mean() for of in found])) / entropy,
        by_ttl={ttl: start + float(cost.mean()) / entropy for ttl, cost in costs.items()},
        cost_error={ttl: error / entropy for ttl, error in errors.items()},
        relation=NeByStaleness(
            model=model,
            added_seconds=(0.0, *added),
            ne=(start, *(start + cost / entropy for cost in typical_cost)),
            ne_without=ne_without,
        ),
    )


def _changed(
    embedded: Embedded, ways: Mapping[float, Answers], costs: Mapping[float, Floats], places: Ids
) -> Iterator[tuple[Floats, Floats]]:
    """By TTL: added seconds and cost of the examples whose answer is not the one without a cache."""
    for ttl, way in ways.items():
        added = embedded.added_seconds(way, ways[0.0])[places]
        yield added[added > 0], costs[ttl][added > 0]


def _by_range(added: Floats, cost: Floats) -> tuple[list[float], list[float]]:
    """Median added staleness and mean cost of each range that holds anything."""
    of_range = np.digitize(added, RANGES, right=True)
    held = np.unique(of_range)
    return (
        [float(np.median(added[of_range == one])) for one in held],
        [float(cost[of_range == one].mean()) for one in held],
    )


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
