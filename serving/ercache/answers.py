"""Requests of real days, embedded, and what a cache would have answered each with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import Ids
from features.lake import Lake
from features.schema import EVENT_TIME, USER_ID
from serving.ercache.replay import NOBODY, Conditions, last_before, replay
from serving.ercache.traces import Trace, of_requests
from serving.replay.requests import Requests, read_requests, times_ms
from serving.replay.stores import embed_requests
from snapshots.embedder import Embedder
from trainer.downstream.arms import SUM, own_features, small_tables
from trainer.downstream.joined import JoiningEncoder, NewestEmbeddings
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.serving import Serving

_PART = 65_536


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What every request is answered with; requests in the order of (user, time)."""

    newest: Ids
    """[N]: the request whose inference is the newest of the answer; NOBODY: the default."""
    before: Ids
    """[N]: whose inference was the last before the request's."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """N requests in the order of (user, time)."""

    requests: Requests
    trace: Trace
    """The same, in the order of time."""
    vectors: NDArray[np.float16]
    """[N, K, D]: of each request, from its own features."""
    pooling: int

    def __len__(self) -> int:
        return len(self.requests)

    def answers(self, policy: Serving) -> Answers:
        """Of the policy, where inferences take no time and do not fail."""
        found, grouped = replay(self.trace, policy, Conditions(latency_ms=0)), self.trace.by_user
        place, served = np.argsort(grouped.order), found.served[grouped.order]
        return Answers(
            newest=np.where(served == NOBODY, NOBODY, place[served]),
            before=last_before(found.inferred[grouped.order], grouped.starts),
        )

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
        parts = [self.pooled(answers, np.arange(at, min(at + _PART, len(self)))) for at in range(0, len(self), _PART)]
        known = np.flatnonzero(np.concatenate([has for _, has in parts]))
        vectors = np.concatenate([of.astype(np.float16)[has] for of, has in parts])
        return NewestEmbeddings(user_ids=known, vectors=vectors, age_days=np.zeros_like(known))

    def added_seconds(self, answers: Answers, uncached: Answers) -> NDArray[np.float64]:
        """[N]: so much older than without a cache; 0 where both are the default."""
        assert np.array_equal(answers.newest == NOBODY, uncached.newest == NOBODY), "a direct cache forgets nobody"
        times = self.requests.time_ms
        older = (times[uncached.newest] - times[answers.newest]) / 1000
        return np.where(answers.newest == NOBODY, 0.0, older)


def embed(recipe: Recipe, days: Sequence[date], embedder: Embedder, *, lake: Lake) -> Embedded:
    """Every request of the days, from the features that were logged with it.

    MissingPartitionError where the examples of a day are not in the lake.
    """
    users, times, vectors = [], [], []
    for ds in days:
        examples = lake.get(f"examples/{recipe.source.name}", ds)
        of_day = read_requests(lake, examples)
        users.append(of_day.user)
        times.append(of_day.time_ms)
        vectors.append(embed_requests(embedder, lake, examples, of_day))
    requests = Requests.of(np.concatenate(users), np.concatenate(times))
    return Embedded(
        requests=requests,
        trace=of_requests(recipe.source.name, requests.user, requests.time_ms),
        vectors=np.concatenate(vectors)[requests.first_row],
        pooling=recipe.pooling_versions,
    )


class RequestEncoder(JoiningEncoder):
    """Joins by request, not by user: `keys` of its batches are places among the requests."""

    def __init__(
        self, recipe: Recipe, downstream: DownstreamRecipe, embedded: Embedded, embeddings: NewestEmbeddings
    ) -> None:
        schema = small_tables(recipe.source.schema)
        features = own_features(downstream, schema)
        super().__init__(schema, task=downstream.task, features=features, embeddings={SUM: embeddings})
        self._requests = embedded.requests

    @property
    def columns(self) -> list[str]:
        """The columns that `batches` needs."""
        return [EVENT_TIME, *super().columns]

    def keys(self, rows: pa.RecordBatch | pa.Table) -> Ids:
        """[rows]: places among the requests."""
        return self._requests.places(rows.column(USER_ID).to_numpy(), times_ms(rows.column(EVENT_TIME)))
