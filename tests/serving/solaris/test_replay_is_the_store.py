"""The replay in event time serves what the store and the levels serve, request by request, to users whose records do
not run full within the day."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.solaris.impressions import Impressions
from serving.solaris.interfaces import Likely
from serving.solaris.levels import fill, mean
from serving.solaris.record import PairRecord, entry_type
from serving.solaris.replay import Stored, serve
from serving.solaris.store import PairStore, Represented, values_of
from tests.serving.solaris.world import MODEL, NOW_MS, WIDTH

USERS, ITEMS, REQUESTS = 6, 8, 150
MODEL_OF_BOTH = replace(MODEL, most_pairs=ITEMS, most_neighbours=2, ttl_seconds=10 * 86_400.0)


def write(
    store: PairStore, user: int, item: int, vector: np.ndarray[tuple[int], np.dtype[np.float16]], ms: int
) -> None:
    """Written when its features were known: the replay's one time is both of the store's."""
    given = Represented.of([Likely(user, item, 1.0)], vector[None], version=1, feature_ms=np.array([ms]))
    store.write(given)


def read(store: PairStore, user: int, item: int) -> tuple[int, list[float]]:
    """Level and vector, as a reader answers that knows the item's neighbours."""
    mine, others = values_of(store.redis, [store.keys.user(user), store.keys.item(item)])
    own = np.empty(0, entry_type(WIDTH)) if mine is None else PairRecord.parse(mine).entries
    known = {} if others is None else {item: mean(PairRecord.parse(others).entries["vector"])}
    found = fill(own["member"], own["vector"], np.array([item]), known)
    return int(found.levels[0]), found.vectors[0].tolist()


@pytest.mark.parametrize("computes", [False, True], ids=["predicted alone", "misses computed at once"])
def test_every_request_is_served_alike(store: PairStore, computes: bool) -> None:
    store = PairStore(store.redis, MODEL_OF_BOTH)
    drawn = np.random.default_rng(0)
    users, items = drawn.integers(0, USERS, REQUESTS), drawn.integers(0, ITEMS, REQUESTS)
    times = NOW_MS - 10 * REQUESTS + 10 * np.arange(REQUESTS)
    own = drawn.integers(-8, 8, (REQUESTS, WIDTH)).astype(np.float16)
    first = [(0, 1), (0, 2), (1, 1), (2, 3)]
    vectors = drawn.integers(-8, 8, (len(first), WIDTH)).astype(np.float16)
    written = NOW_MS - 20 * REQUESTS + np.arange(len(first))
    stored = Stored(
        user=np.array([user for user, _ in first]), item=np.array([item for _, item in first]),
        written_us=1000 * written, vectors=vectors,
    )  # fmt: skip
    replayed, _ = serve(
        stored, Impressions(user=users, item=items, time_us=1000 * times), own, model=MODEL_OF_BOTH,
        delay_seconds=0.001 if computes else None,
    )  # fmt: skip
    for (user, item), vector, ms in zip(first, vectors, written.tolist(), strict=True):
        write(store, user, item, vector, ms)
    served = []
    for at, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        served.append(read(store, user, item))
        if computes and served[-1][0]:
            write(store, user, item, own[at], int(times[at]) + 1)
    levels = [level for level, _ in served]
    assert replayed.levels.tolist() == levels
    assert set(levels) == {0, 1, 2, 3}
    np.testing.assert_allclose(replayed.vectors, [vector for _, vector in served], rtol=2e-3)
