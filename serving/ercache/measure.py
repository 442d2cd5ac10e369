"""The NE that a direct cache costs a consumer, measured on a day of real requests, by TTL and by the staleness it adds.

Every request of some days is embedded from its own features by one snapshot, which has learnt from none of the days
that the consumer sees. The consumer learns from the two days before the scored one, each request joined with what
serving without a direct cache would have answered: the mean of the newest inferences of the user, as many as the recipe
pools. It is then scored, unchanged, on the day with what direct caches of several TTLs would have answered. So nothing
but the cache differs, and its cost is that of the day on which it is switched on: consumers that learn from what it
answers mind it less (`learnt_ttl`).

An answer's added staleness is how much older its newest inference is than without a cache. Its cost is the mean
difference of the cross entropy to the answer without a cache, over all answers of all TTLs whose added staleness is in
the same range: paired, and of the requests to which a cache does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn.functional import softplus

from features.columns import Ids
from features.days import days_between
from features.lake import Lake
from features.reader import DayReader
from features.schema import EVENT_TIME, USER_ID
from serving.ercache.relation import NeByStaleness
from serving.ercache.replay import NOBODY, Conditions, last_before, replay
from serving.ercache.traces import Trace
from snapshots.embedder import ROWS_PER_BATCH, one_thread
from trainer.downstream.arms import Pair, own_features, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, NewestEmbeddings
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.serving import Serving

LEARNT_DAYS = 2
HISTORY_DAYS = LEARNT_DAYS + 1
"""Days before the scored one whose requests are embedded: the first gives the learnt days their past."""
TTLS = (10.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
RANGES = (0.0, 10.0, 29.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
"""Bounds of added staleness, seconds, the lower one excluded."""
_BATCH = 8_192
_PART = 65_536


class Embeds(Protocol):
    """A snapshot as a function of features; `snapshots.embedder.Embedder` is one."""

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""

    def embed(self, rows: pa.RecordBatch) -> NDArray[np.float32]:
        """[B, K, D]."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What every request is answered with."""

    newest: Ids
    """[N]: the request whose inference is the newest of the answer; NOBODY: the default."""
    before: Ids
    """[N]: whose inference was the last before the request's."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of some days, embedded."""

    trace: Trace
    vectors: NDArray[np.float16]
    """[N, K, D]: of each request, from its own features."""
    pooling: int

    def places(self, users: Ids, times_ms: Ids) -> Ids:
        """[B]: where these requests are in the trace."""
        grouped = self.trace.by_user
        _, of_begin = np.unique(grouped.starts, return_index=True)
        known = self.trace.users[grouped.order[of_begin]]
        user = np.searchsorted(known, users) * grouped.span
        return grouped.order[np.searchsorted(grouped.keys, user + times_ms - grouped.first_ms)]

    def answers(self, policy: Serving) -> Answers:
        """Of the policy, inferences that take no time and do not fail."""
        found, grouped = replay(self.trace, policy, Conditions(latency_ms=0)), self.trace.by_user
        before = last_before(found.inferred[grouped.order], grouped.starts)
        before = np.where(before == NOBODY, NOBODY, grouped.order[before])
        return Answers(newest=found.served, before=grouped.in_order(before))

    def pooled(self, answers: Answers, places: Ids) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """[B, K, D] what these requests are answered with, zeros for the default; [B] whether it is no default."""
        total = np.zeros((places.size, *self.vectors.shape[1:]), np.float32)
        count = np.zeros(places.size, np.float32)
        at = answers.newest[places]
        for _ in range(self.pooling):
            known = at != NOBODY
            total[known] += self.vectors[at[known]]
            count += known
            at = np.where(known, answers.before[at], NOBODY)
        total /= np.maximum(count, 1)[:, None, None]
        return total, count > 0

    def table(self, answers: Answers) -> NewestEmbeddings:
        """All answers, by request in place of user."""
        size = len(self.trace)
        parts = [self.pooled(answers, np.arange(at, min(at + _PART, size))) for at in range(0, size, _PART)]
        known = np.flatnonzero(np.concatenate([has for _, has in parts]))
        vectors = np.concatenate([of.astype(np.float16)[has] for of, has in parts])
        return NewestEmbeddings(user_ids=known, vectors=vectors, age_days=np.zeros_like(known))

    def added_seconds(self, answers: Answers, uncached: Answers) -> NDArray[np.float64]:
        """[N]: so much older than without a cache; 0 where both are the default."""
        times = self.trace.times_ms
        older = (times[uncached.newest] - times[answers.newest]) / 1000
        assert np.array_equal(answers.newest == NOBODY, uncached.newest == NOBODY), "a direct cache forgets nobody"
        return np.where(answers.newest == NOBODY, 0.0, older)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A scored day."""

    ds: date
    num_requests: int
    num_examples: int
    ne_without: float
    """Of the arm that knows no embeddings."""
    ne_fresh: float
    """With inferences of the requests' own features alone, which the consumer has not learnt from."""
    by_ttl: dict[float, float]
    """NE with a direct cache of so many seconds, all requests; 0: without."""
    relation: NeByStaleness
    """By added staleness."""


def embed_requests(recipe: Recipe, days: Sequence[date], embedder: Embeds, *, lake: Lake) -> Requests:
    """Of the lake's examples: those that share user and time are one request."""
    users, times, vectors = [], [], []
    with one_thread():
        for ds in days:
            partition = lake.get(f"examples/{recipe.source.name}", ds)
            columns = [USER_ID, EVENT_TIME, *embedder.columns]
            rows = lake.read(partition, columns=list(dict.fromkeys(columns)))
            kept = rows.take(pa.array(_first_of_each(rows)))
            users.append(kept[USER_ID].to_numpy())
            times.append(_times_ms(kept))
            vectors += [embedder.embed(part).astype(np.float16) for part in kept.to_batches(ROWS_PER_BATCH)]
    order = np.lexsort((np.concatenate(users), np.concatenate(times)))
    trace = Trace(name=recipe.source.name, times_ms=np.concatenate(times)[order], users=np.concatenate(users)[order])
    return Requests(trace=trace, vectors=np.concatenate(vectors)[order], pooling=recipe.pooling_versions)


def _times_ms(rows: pa.Table | pa.RecordBatch) -> Ids:
    microseconds: Ids = rows.column(EVENT_TIME).cast(pa.int64()).to_numpy()
    return microseconds // 1000


def _first_of_each(rows: pa.Table) -> Ids:
    """Places of the first row of every (time, user)."""
    users, times = rows[USER_ID].to_numpy(), _times_ms(rows)
    order = np.lexsort((users, times))
    same = (users[order][1:] == users[order][:-1]) & (times[order][1:] == times[order][:-1])
    first: Ids = order[np.concatenate([[True], ~same])]
    return first


class RequestEncoder(JoiningEncoder):
    """Joins by request, not by user: `user_ids` of its batches are places in the trace."""

    def __init__(
        self, recipe: Recipe, downstream: DownstreamRecipe, requests: Requests, embeddings: NewestEmbeddings
    ) -> None:
        schema = small_tables(recipe.source.schema)
        features = own_features(downstream, schema)
        super().__init__(schema, task=downstream.task, features=features, embeddings=embeddings)
        self._requests = requests

    @property
    def columns(self) -> list[str]:
        """The columns that `batches` needs."""
        return [EVENT_TIME, *super().columns]

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[JoinedBatch]:
        """`rows` in this order."""
        places = pa.array(self._requests.places(rows.column(USER_ID).to_numpy(), _times_ms(rows)))
        asked = rows.set_column(rows.schema.get_field_index(USER_ID), USER_ID, places)
        return super().batches(asked, order=order, batch_size=batch_size)


def measure(
    recipe: Recipe,
    downstream: DownstreamRecipe,
    ds: date,
    embedder: Embeds,
    *,
    lake: Lake,
    ttls: Sequence[float] = TTLS,
    learnt_ttl: float = 0.0,
) -> Measured:
    """The consumer, learnt anew, scored on `ds`. `embedder`: a snapshot from before the learnt days and the one before.

    learnt_ttl: the consumer learns from what a direct cache of this TTL, one of `ttls`, answers.
    MissingPartitionError where examples of the scored day or of those before it are not in the lake.
    """
    days = list(days_between(ds - timedelta(days=HISTORY_DAYS), ds))
    requests = embed_requests(recipe, days, embedder, lake=lake)
    policy = replace(recipe.serving, failover_seconds=float("inf"), max_inferences_per_second=float("inf"))
    ways = {ttl: requests.answers(replace(policy, direct_seconds=ttl)) for ttl in (0.0, *ttls)}
    embeddings = requests.table(ways[learnt_ttl])
    pair = Pair(downstream, small_tables(recipe.source.schema), recipe.user_tower)

    def batches(day: date, batch_size: int) -> Iterator[JoinedBatch]:
        encoder = RequestEncoder(recipe, downstream, requests, embeddings)
        examples = lake.get(f"examples/{recipe.source.name}", day)
        reader = DayReader(lake, examples, encoder, batch_size=batch_size, seed=downstream.seed)
        return (cast(JoinedBatch, batch) for batch in reader)

    for learnt in days[1:-1]:
        pair.train(batches(learnt, downstream.batch_size))
    return _measured(recipe.name, ds, requests, ways, _losses(pair, batches(ds, _BATCH), requests, ways))


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """Of the M scored examples: cross entropy in nats."""

    places: Ids
    labels: NDArray[np.float32]
    without: NDArray[np.float32]
    fresh: NDArray[np.float32]
    by_ttl: dict[float, NDArray[np.float32]]


@torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
def _losses(pair: Pair, batches: Iterator[JoinedBatch], requests: Requests, ways: Mapping[float, Answers]) -> _Losses:
    """One pass over the day; each batch is scored with every TTL's answers."""
    own = Answers(newest=np.arange(len(requests.trace)), before=np.full(len(requests.trace), NOBODY))
    rows: list[list[NDArray[Any]]] = []
    for batch in batches:
        real = int(batch.weights.sum())  # padding is at the end
        inputs, places, labels = pair.inputs(batch), batch.user_ids.numpy(), batch.labels[:real, 0]
        logits = [pair.arms["baseline"].predict(inputs)]
        for way in (own, *ways.values()):
            vectors, known = requests.pooled(way, places)
            given = replace(
                inputs, users=torch.from_numpy(vectors), has_embedding=torch.from_numpy(known.astype(np.float32))
            )
            logits.append(pair.arms["sum"].predict(given))
        losses = [(softplus(of[:real]) - labels * of[:real]).numpy() for of in logits]
        rows.append([places[:real], labels.numpy(), *losses])
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    by_ttl = dict(zip(ways, columns[4:], strict=True))
    return _Losses(places=columns[0], labels=columns[1], without=columns[2], fresh=columns[3], by_ttl=by_ttl)


def _measured(model: str, ds: date, requests: Requests, ways: Mapping[float, Answers], losses: _Losses) -> Measured:
    rate = float(losses.labels.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))  # Eq. 9
    by_ttl = {ttl: float(of.mean(dtype=np.float64) / entropy) for ttl, of in losses.by_ttl.items()}
    ne_without = float(losses.without.mean(dtype=np.float64) / entropy)
    added, cost = [], []
    for ttl, way in ways.items():
        of_request = requests.added_seconds(way, ways[0.0])[losses.places]
        changed = of_request > 0
        added.append(of_request[changed])
        cost.append((losses.by_ttl[ttl] - losses.by_ttl[0.0])[changed])
    typical, ne = _by_range(np.concatenate(added), np.concatenate(cost) / entropy)
    return Measured(
        ds=ds,
        num_requests=np.unique(losses.places).size,
        num_examples=losses.labels.size,
        ne_without=ne_without,
        ne_fresh=float(losses.fresh.mean(dtype=np.float64) / entropy),
        by_ttl=by_ttl,
        relation=NeByStaleness(
            model=model,
            added_seconds=(0.0, *typical),
            ne=(by_ttl[0.0], *(by_ttl[0.0] + of for of in ne)),
            ne_without=ne_without,
        ),
    )


def _by_range(added: NDArray[np.float64], cost: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Median added staleness and mean cost of each range that holds anything."""
    of_range = np.digitize(added, RANGES, right=True)
    held = np.unique(of_range)
    return (
        [float(np.median(added[of_range == one])) for one in held],
        [float(cost[of_range == one].mean(dtype=np.float64)) for one in held],
    )
