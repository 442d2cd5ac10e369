"""The feature store against a real server: what is kept, in which order, and what a request leaves behind."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from serving.keys import Keys
from serving.record import Entry
from serving.served import Served
from serving.store import Request, Store, Write
from tests.serving.servers import redis_server

DAY_SECONDS = 86_400.0
NOW_MS = int(1000 * time.time())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running, running.client() as client:
        yield client


@pytest.fixture
def store(server: redis.Redis) -> Store:
    server.flushall()
    return Store(server)


def entry(version: int, feature_ms: int, value: float = 0.0) -> Entry:
    return Entry(version=version, feature_ms=feature_ms, vectors=np.full((2, 4), value or version, np.float16))


def write(store: Store, *entries: Entry, model: str = "demo", user: int = 7) -> list[int]:
    return [
        store.write([Write(user=user, entries={model: (one, DAY_SECONDS)}, future_seconds=60)])[0][model]
        for one in entries
    ]


def kept(store: Store, *, model: str = "demo", user: int = 7) -> list[tuple[int, int]]:
    (record,) = store.read(user, (model,))
    return [] if record is None else [(int(one["version"]), int(one["feature_ms"])) for one in record.entries]


def test_the_last_three_by_feature_time_whatever_the_order_of_arrival(store: Store) -> None:
    entries = [entry(1, 10), entry(1, 20), entry(2, 20), entry(2, 30)]
    for number, order in enumerate(itertools.permutations(entries)):
        write(store, *order, user=number)
        assert kept(store, user=number) == [(2, 30), (2, 20), (1, 20)], order


def test_places(store: Store) -> None:
    assert write(store, entry(1, 20), entry(1, 30), entry(1, 10), entry(1, 40), entry(1, 5)) == [1, 1, 3, 1, 0]
    assert kept(store) == [(1, 40), (1, 30), (1, 20)]


def test_a_redelivery_changes_the_write_time_alone(store: Store) -> None:
    write(store, entry(1, 10), entry(1, 20))
    assert write(store, entry(1, 10)) == [2]
    assert kept(store) == [(1, 20), (1, 10)]


def test_the_future_is_refused(store: Store) -> None:
    assert write(store, entry(1, NOW_MS + 3_600_000), entry(1, NOW_MS)) == [-1, 1]
    assert kept(store) == [(1, NOW_MS)]


def test_the_store_says_when_it_was_written_and_for_how_long_it_lives(store: Store) -> None:
    before = int(1000 * time.time())
    write(store, entry(1, 10, value=0.5))
    (record,) = store.read(7, ("demo",))
    assert record is not None
    assert before <= record.entries["write_ms"][0] <= int(1000 * time.time()) + 1
    assert record.entries["vectors"][0].tolist() == [[0.5] * 4] * 2
    assert 0 < int(store.redis.pttl(store.keys.record("demo", 7))) <= 1000 * DAY_SECONDS  # type: ignore[arg-type]


def test_another_shape_begins_anew(store: Store) -> None:
    write(store, entry(1, 10))
    other = Entry(version=2, feature_ms=20, vectors=np.ones((1, 8), np.float16))
    assert write(store, other) == [1]
    assert kept(store) == [(2, 20)]


def test_many_models_of_a_user_are_written_and_read_together(store: Store) -> None:
    both = {"a": (entry(1, 10), DAY_SECONDS), "b": (entry(5, 20), DAY_SECONDS)}
    assert store.write([Write(user=-3, entries=both, future_seconds=60)]) == [{"a": 1, "b": 1}]
    found = store.read(-3, ("b", "c", "a"))
    assert [record and int(record.entries["version"][0]) for record in found] == [5, None, 1]


def request(user: int = 7, *, feature_ms: int = 10, payload: bytes = b"x", longest: int = 2) -> Request:
    return Request(
        source="s",
        user=user,
        feature_ms=feature_ms,
        payload=payload,
        ttl_seconds=60,
        longest=longest,
        future_seconds=60,
    )


def test_what_becomes_of_requests(store: Store) -> None:
    asked = [
        request(payload=b""), request(), request(), request(user=8), request(user=9), request(feature_ms=NOW_MS + 10**7)
    ]  # fmt: skip
    assert store.enqueue(asked) == [-2, 1, 0, 1, -1, -3]
    stream = store.redis.xrange(store.keys.requests("s", 0))
    assert [fields for _, fields in stream] == [{b"u": b"7"}, {b"u": b"8"}]  # type: ignore[union-attr]


def test_the_newest_features_are_kept(store: Store) -> None:
    store.enqueue([request(feature_ms=20, payload=b"new"), request(feature_ms=10, payload=b"old")])
    found = store.redis.get(store.keys.features("s", 7))
    assert isinstance(found, bytes)
    assert (int.from_bytes(found[:8], "little"), found[8:]) == (20, b"new")


def test_what_is_served_is_told(store: Store) -> None:
    served = Served(model="demo", source="s", version=3, ds="2026-01-03", num_embeddings=2, dim=4, withdrawn=(2,))
    store.announce(served)
    assert store.served() == {"demo": served}


def test_another_number_of_partitions_is_refused(store: Store) -> None:
    store.require_layout()
    store.require_layout()
    with pytest.raises(ValueError, match="written with 1 partitions, this client has 8"):
        Store(store.redis, Keys(8)).require_layout()
