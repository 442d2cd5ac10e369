"""The NE of a consumer that is given embeddings of a chosen age, on a day of real requests.

Every request of some days is embedded from its own features by one snapshot, which has learnt from none of the days
that the consumer sees. The consumer learns from the two days before the scored one, each request joined with the
inference of the user's request before it (SOAP). It is then scored, unchanged, on the day with other inferences of the
same snapshot: with the newest that is at least so old ("delay"), and with the one that a direct cache of a TTL would
have kept. So nothing but staleness differs.

A delay's NE is that of the fresh embeddings plus the mean difference over the requests that have one so old.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, cast

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
from serving.ercache.replay import NOBODY, Conditions, replay
from serving.ercache.traces import Trace
from snapshots.embedder import ROWS_PER_BATCH, Embedder, one_thread
from trainer.downstream.arms import Pair, own_features, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, NewestEmbeddings
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.serving import Serving

if TYPE_CHECKING:
    from features.batches import Batch

LEARNT_DAYS = 2
HISTORY_DAYS = LEARNT_DAYS + 1
"""Days before the scored one whose requests are embedded: the first gives the learnt days their past."""
DELAYS = (0.0, 1.0, 10.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0)
TTLS = (0.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
_BATCH = 8_192


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of some days, embedded."""

    trace: Trace
    vectors: NDArray[np.float16]
    """[N, K, D]: of each request, from its own features."""

    def of(self, users: Ids, times_ms: Ids) -> Ids:
        """[B]: the places of these requests in the trace."""
        grouped = self.trace.by_user
        _, of_begin = np.unique(grouped.starts, return_index=True)
        known = self.trace.users[grouped.order[of_begin]]
        user = np.searchsorted(known, users) * grouped.span
        return grouped.order[np.searchsorted(grouped.keys, user + times_ms - grouped.first_ms)]

    def delayed(self, seconds: float) -> Ids:
        """[N]: the newest request of the same user at least so long before; NOBODY: there is none. 0: itself."""
        grouped = self.trace.by_user
        earlier = np.searchsorted(grouped.keys, grouped.keys - round(1000 * seconds), side="right") - 1
        found = np.where(earlier >= grouped.starts, grouped.order[earlier], NOBODY)
        return np.arange(len(self.trace)) if seconds == 0 else grouped.in_order(found)

    def cached(self, ttl_seconds: float) -> Ids:
        """[N]: whose inference a direct cache of this TTL answers with, in mode async."""
        return replay(self.trace, Serving(direct_seconds=ttl_seconds), Conditions()).served

    def table(self, served: Ids) -> NewestEmbeddings:
        """What `served` gives, by request in place of user."""
        known = np.flatnonzero(served != NOBODY)
        return NewestEmbeddings(user_ids=known, vectors=self.vectors[served[known]], age_days=np.zeros_like(known))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A scored day."""

    ds: date
    relation: NeByStaleness
    by_ttl: dict[float, float]
    """NE of all requests with a direct cache of so many seconds."""
    ne_baseline: float
    """Of the arm that knows no embeddings."""
    num_requests: int
    shares: dict[float, float]
    """By delay: the share of the requests that have an embedding so old."""


def embed_requests(recipe: Recipe, days: Sequence[date], embedder: Embedder, *, lake: Lake) -> Requests:
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
    return Requests(trace=trace, vectors=np.concatenate(vectors)[order])


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

    def __init__(self, recipe: Recipe, downstream: DownstreamRecipe, requests: Requests, served: Ids) -> None:
        schema = small_tables(recipe.source.schema)
        super().__init__(
            schema,
            task=downstream.task,
            features=own_features(downstream, schema),
            embeddings=requests.table(served),
        )
        self._requests = requests

    @property
    def columns(self) -> list[str]:
        """The columns that `batches` needs."""
        return [EVENT_TIME, *super().columns]

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[JoinedBatch]:
        """`rows` in this order."""
        requests = self._requests.of(rows.column(USER_ID).to_numpy(), _times_ms(rows))
        place = rows.schema.get_field_index(USER_ID)
        return super().batches(rows.set_column(place, USER_ID, pa.array(requests)), order=order, batch_size=batch_size)


def measure(
    recipe: Recipe,
    downstream: DownstreamRecipe,
    ds: date,
    embedder: Embedder,
    *,
    lake: Lake,
    delays: Sequence[float] = DELAYS,
    ttls: Sequence[float] = TTLS,
) -> Measured:
    """The consumer, learnt anew, scored on `ds`. `embedder`: a snapshot from before the learnt days.

    MissingPartitionError where examples of the scored day or of those before it are not in the lake.
    """
    days = list(days_between(ds - timedelta(days=HISTORY_DAYS), ds))
    requests = embed_requests(recipe, days, embedder, lake=lake)
    uncached = requests.cached(0.0)
    pair = Pair(downstream, small_tables(recipe.source.schema), recipe.user_tower)
    for learnt in days[1:-1]:
        pair.train(_batches(recipe, downstream, learnt, requests, uncached, lake, batch_size=downstream.batch_size))
    ways = {("delay", d): requests.delayed(d) for d in delays} | {("ttl", t): requests.cached(t) for t in ttls}
    batches = _batches(recipe, downstream, ds, requests, uncached, lake, batch_size=_BATCH)
    return _measured(recipe.name, ds, _losses(pair, batches, requests, ways), ways, delays=delays, ttls=ttls)


def _batches(
    recipe: Recipe,
    downstream: DownstreamRecipe,
    ds: date,
    requests: Requests,
    served: Ids,
    lake: Lake,
    *,
    batch_size: int,
) -> Iterator[JoinedBatch]:
    encoder = RequestEncoder(recipe, downstream, requests, served)
    examples = lake.get(f"examples/{recipe.source.name}", ds)
    reader: Iterator[Batch] = iter(DayReader(lake, examples, encoder, batch_size=batch_size, seed=downstream.seed))
    return (cast(JoinedBatch, batch) for batch in reader)


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """Of the M scored examples."""

    requests: Ids
    labels: NDArray[np.float32]
    baseline: NDArray[np.float32]
    """Cross entropy in nats."""
    by_way: dict[tuple[str, float], NDArray[np.float32]]


@torch.no_grad()
def _losses(
    pair: Pair, batches: Iterator[JoinedBatch], requests: Requests, ways: Mapping[tuple[str, float], Ids]
) -> _Losses:
    """One pass over the day; each batch is scored with every way's embeddings."""
    names = ("requests", "labels", "baseline")
    plain: dict[str, list[NDArray[np.generic]]] = {name: [] for name in names}
    by_way: dict[tuple[str, float], list[NDArray[np.float32]]] = {way: [] for way in ways}
    for batch in batches:
        real = int(batch.weights.sum())  # padding is at the end
        inputs, labels, asked = pair.inputs(batch), batch.labels[:real, 0], batch.user_ids.numpy()

        def loss(logits: torch.Tensor, of: torch.Tensor = labels, size: int = real) -> NDArray[np.float32]:
            found: NDArray[np.float32] = (softplus(logits[:size]) - of * logits[:size]).numpy()
            return found

        for name, values in zip(
            names, (asked[:real], labels.numpy(), loss(pair.arms["baseline"].predict(inputs))), strict=True
        ):
            plain[name].append(values)
        for way, served in ways.items():
            found = served[asked]
            vectors = requests.vectors[found].astype(np.float32)
            vectors[found == NOBODY] = 0
            known = torch.from_numpy((found != NOBODY).astype(np.float32))
            given = replace(inputs, users=torch.from_numpy(vectors), has_embedding=known)
            by_way[way].append(loss(pair.arms["sum"].predict(given)))
    joined = {name: np.concatenate(parts) for name, parts in plain.items()}
    return _Losses(
        **cast(dict[str, NDArray[np.float32]], joined),  # type: ignore[arg-type]
        by_way={way: np.concatenate(parts) for way, parts in by_way.items()},
    )


def _measured(
    model: str,
    ds: date,
    losses: _Losses,
    ways: Mapping[tuple[str, float], Ids],
    *,
    delays: Sequence[float],
    ttls: Sequence[float],
) -> Measured:
    rate = float(losses.labels.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))  # Eq. 9
    fresh, without = losses.by_way["delay", 0.0], float(losses.baseline.mean() / entropy)
    known = {delay: ways["delay", delay][losses.requests] != NOBODY for delay in delays}
    by_delay = {
        delay: float((fresh.mean() + (losses.by_way["delay", delay] - fresh)[has].mean()) / entropy)
        for delay, has in known.items()
        if has.any()
    }
    return Measured(
        ds=ds,
        relation=NeByStaleness(
            model=model, ages_seconds=tuple(by_delay), ne=tuple(by_delay.values()), ne_without=without
        ),
        by_ttl={ttl: float(losses.by_way["ttl", ttl].mean() / entropy) for ttl in ttls},
        ne_baseline=without,
        num_requests=np.unique(losses.requests).size,
        shares={delay: float(has.mean()) for delay, has in known.items()},
    )
