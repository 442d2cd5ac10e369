"""What a cache costs a consumer: users whose taste turns, embeddings that know it as of their request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from features.arrow import TIME, examples_schema
from features.lake import Lake
from serving.ercache.answers import Answers, embed
from serving.ercache.measure import HISTORY_DAYS, Measured, measure
from serving.ercache.replay import NOBODY
from tests.trainer.downstream_world import CTR, SCHEMA, TOWER, UPSTREAM, day, lists
from trainer.serving import Serving

USERS, REQUESTS, EXAMPLES = 60, 100, 2
TURNS = 0.15
"""A taste turns between two requests so often."""
DAYS = [day(index) for index in range(HISTORY_DAYS + 1)]


@dataclass(frozen=True, kw_only=True)
class Known:
    """Embeds the feature that says the taste; every number of a vector is it."""

    @property
    def columns(self) -> list[str]:
        return ["age"]

    def embed(self, rows: pa.Table) -> NDArray[np.float32]:
        taste = rows.column("age").to_numpy()
        return np.repeat(taste, TOWER.num_embeddings * TOWER.dim).reshape(-1, TOWER.num_embeddings, TOWER.dim)


def _commit(lake: Lake, ds: date) -> None:
    """Each request of a user has two examples; whether they are clicked hangs on the taste alone."""
    rng = np.random.default_rng(ds.toordinal())
    taste = np.cumprod(np.where(rng.random((USERS, REQUESTS)) < TURNS, -1, 1), axis=1)
    midnight = int(datetime.combine(ds, datetime.min.time(), UTC).timestamp()) * 10**6
    times = midnight + np.sort(rng.integers(0, 86_400 * 10**6, (USERS, REQUESTS)), axis=1)
    users = np.repeat(np.arange(USERS) * 7, REQUESTS)
    order = np.repeat(np.argsort(times.ravel()), EXAMPLES)
    size = order.size
    columns = {
        "user_id": pa.array(users[order]),
        "event_time": pa.array(times.ravel()[order]).cast(TIME),
        "history": lists(np.zeros(size, np.int64), 1),
        "hour": lists(np.zeros(size, np.int64), 1),
        "item": lists(rng.integers(9, size=size), 1),
        "slot": lists(np.zeros(size, np.int64), 1),
        "age": pa.array(taste.ravel()[order], pa.float32()),
        "price": pa.array(np.zeros(size), pa.float32()),
        "click": pa.array(rng.random(size) < 0.5 + 0.45 * taste.ravel()[order]).cast(pa.int8()),
        "buy": pa.array(np.zeros(size), pa.int8()),
    }
    lake.commit("examples/tiny", ds, pa.table(columns, schema=examples_schema(SCHEMA)), fingerprint="1" * 64)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for ds in DAYS:
        _commit(lake, ds)
    return lake


@pytest.fixture(scope="module")
def measured(lake: Lake) -> Measured:
    recipe = replace(UPSTREAM, pooling_versions=1)
    return measure(recipe, CTR, DAYS[-1], Known(), lake=lake, ttls=(600, 3_600, 21_600), seeds=(0, 1))


def test_the_longer_the_ttl_the_more_it_costs(measured: Measured) -> None:
    assert measured.num_requests == USERS * REQUESTS
    ne = [measured.ne_fresh, *measured.by_ttl.values()]
    assert list(measured.by_ttl) == [0, 600, 3_600, 21_600]
    assert ne == sorted(ne)
    assert measured.ne_without - measured.by_ttl[0] > 0.1


def test_the_relation_begins_without_a_cache_and_rises(measured: Measured) -> None:
    relation = measured.relation
    assert (relation.added_seconds[0], relation.ne[0]) == (0, measured.by_ttl[0])
    assert relation.added_seconds[-1] < 21_600
    assert relation.ne[-1] > relation.ne[1] > relation.ne[0]
    assert relation(np.array([np.inf])) == measured.ne_without
    assert relation.ne[-1] > measured.ne_without, (
        "who trusts what is fresh is worse off with what is old than with nothing"
    )


def test_a_consumer_that_learns_from_what_the_cache_answers_minds_it_less(lake: Lake, measured: Measured) -> None:
    recipe = replace(UPSTREAM, pooling_versions=1)
    learnt = measure(recipe, CTR, DAYS[-1], Known(), lake=lake, ttls=(21_600,), learnt_ttl=21_600)
    assert learnt.by_ttl[21_600] < measured.by_ttl[21_600]
    assert learnt.by_ttl[0] > measured.by_ttl[0]


def test_consumers_of_several_seeds_say_how_sure_a_cost_is(measured: Measured) -> None:
    assert measured.cost_error[0] == 0
    assert 0 < measured.cost_error[3_600] < measured.by_ttl[3_600] - measured.by_ttl[0]


def test_answers_are_pooled_over_the_newest_inferences(lake: Lake) -> None:
    embedded = embed(UPSTREAM, DAYS[:2], Known(), lake=lake)  # pools 3
    each = 2 * REQUESTS
    assert embedded.vectors.shape == (USERS * each, TOWER.num_embeddings, TOWER.dim)
    tastes = embedded.vectors[:, 0, 0].reshape(USERS, each).astype(np.float64)
    vectors, known = embedded.pooled(embedded.answers(Serving()), np.arange(len(embedded)))
    found = vectors[:, 0, 0].reshape(USERS, each)
    assert known.reshape(USERS, each)[:, 0].tolist() == [False] * USERS, "nobody has asked before"
    assert not vectors[~known].any()
    expected = [tastes[:, max(at - 3, 0) : at].mean(axis=1) for at in range(1, each)]
    assert found[:, 1:] == pytest.approx(np.stack(expected, axis=1), abs=1e-6)
    table = embedded.table(embedded.answers(Serving()))
    assert (table.user_ids == np.flatnonzero(known)).all()
    assert (table.vectors == vectors[known].astype(np.float16)).all()


def test_added_staleness_is_the_time_that_the_cache_adds(lake: Lake) -> None:
    embedded = embed(UPSTREAM, DAYS[:1], Known(), lake=lake)
    times, before = embedded.requests.time_ms, np.full(len(embedded), NOBODY)
    newest = np.full(len(embedded), NOBODY)
    newest[2] = 1
    older = newest.copy()
    older[2] = 0
    added = embedded.added_seconds(Answers(newest=older, before=before), Answers(newest=newest, before=before))
    assert added[2] == (times[1] - times[0]) / 1000
    assert not np.delete(added, 2).any()
