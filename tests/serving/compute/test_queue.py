"""The stream of requests against a real store: who is given what, and what becomes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from serving.compute.queue import Features, Queued, streams_of
from serving.keys import Keys
from serving.store import Store
from tests.serving.compute.world import NOW_MS, payload, request, requests_of, stream_length

ALL = {"idle_ms": 0, "most": 5, "count": 100}


def users(entries: list[Queued]) -> list[int]:
    return [one.user for one in entries]


def test_an_entry_is_given_to_one_worker_and_off_the_stream_when_done(store: Store) -> None:
    one, two = requests_of(store, consumer="one"), requests_of(store, consumer="two")
    store.enqueue([request(user) for user in range(5)])
    first, second = one.read({"tiny"}, count=3), two.read({"tiny"}, count=9)
    assert (users(first), users(second)) == ([0, 1, 2], [3, 4])
    assert one.read({"tiny"}, count=9, block_ms=1) == [] == one.read({"another"}, count=9)
    assert two.done(second) == 2  # behind what the other is at
    assert stream_length(store) == 3
    assert one.done(first) == 3
    assert one.done(first) == 0
    assert stream_length(store) == 0


def test_done_leaves_what_nobody_was_given(store: Store) -> None:
    one = requests_of(store)
    store.enqueue([request(user) for user in range(250)])  # more than a node of the stream holds
    taken = one.read({"tiny"}, count=130)
    assert one.done(taken[:120]) == 120
    assert one.done(taken[120:]) == 10
    assert stream_length(store) == 120
    assert users(one.read({"tiny"}, count=500)) == [*range(130, 250)]


def test_markers_go_before_features_are_read(store: Store) -> None:
    one = requests_of(store)
    store.enqueue([request(7), request(8)])
    assert store.enqueue([request(7, feature_ms=NOW_MS + 1)]) == [0]
    store.redis.delete(store.keys.features("tiny", 8))
    found = one.take(one.read({"tiny"}, count=9))
    assert found == [Features(NOW_MS + 1, payload(7)), None]
    assert store.enqueue([request(7, feature_ms=NOW_MS + 2)]) == [1]


def test_what_is_left_is_claimed_by_one(store: Store) -> None:
    dead, one, two = (requests_of(store, consumer=name) for name in ("dead", "one", "two"))
    store.enqueue([request(user) for user in range(4)])
    given = dead.read({"tiny"}, count=9)
    assert one.claim({"tiny"}, **{**ALL, "idle_ms": 60_000}, mine=()) == ([], 0)
    assert one.claim({"another"}, **ALL, mine=()) == ([], 0)
    time.sleep(0.02)
    claimed, aside = one.claim({"tiny"}, **{**ALL, "idle_ms": 10}, mine={given[0].key})
    assert (users(claimed), aside, {entry.deliveries for entry in claimed}) == ([1, 2, 3], 0, {2})
    assert users(two.claim({"tiny"}, **{**ALL, "idle_ms": 15}, mine=())[0]) in ([0], [0, 1, 2, 3])


def test_what_somebody_deleted_is_not_claimed_for_ever(store: Store) -> None:
    dead, one = requests_of(store, consumer="dead"), requests_of(store)
    store.enqueue([request(1), request(2)])
    gone, _ = dead.read({"tiny"}, count=9)
    store.redis.xdel(gone.stream.key, gone.id)
    claimed, _ = one.claim({"tiny"}, **ALL, mine=())
    assert users(claimed) == [2]
    assert pending(store) == 1


def pending(store: Store) -> int:
    found: Any = store.redis.xpending(store.keys.requests("tiny", 0), "compute")
    return int(found["pending"])


def test_what_is_given_out_too_often_is_set_aside(store: Store) -> None:
    one = requests_of(store)
    store.enqueue([request(1), request(2)])
    one.read({"tiny"}, count=9)
    deliveries = [one.claim({"tiny"}, idle_ms=0, most=3, count=9, mine=()) for _ in range(3)]
    assert [([entry.deliveries for entry in claimed], aside) for claimed, aside in deliveries] == [
        ([2, 2], 0), ([3, 3], 0), ([], 2)
    ]  # fmt: skip
    assert (pending(store), stream_length(store)) == (0, 0)
    aside: Any = store.redis.xrange(store.keys.requests("tiny", 0) + ":aside")
    assert [(fields[b"u"], fields[b"deliveries"]) for _, fields in aside] == [(b"1", b"4"), (b"2", b"4")]


def test_an_emptied_store_has_its_group_again(store: Store) -> None:
    one = requests_of(store)
    store.enqueue([request(1)])
    given = one.read({"tiny"}, count=9)
    store.redis.flushall()
    time.sleep(0.002)  # ids begin with the millisecond
    store.enqueue([request(2)])
    assert one.done(given) == 0
    assert one.claim({"tiny"}, **ALL, mine=()) == ([], 0)
    assert users(one.read({"tiny"}, count=9)) == [2]


def test_a_consumer_leaves_unless_it_was_given_something(store: Store) -> None:
    one, two = requests_of(store, consumer="one"), requests_of(store, consumer="two")
    store.enqueue([request(1)])
    given = one.read({"tiny"}, count=9)
    two.read({"tiny"}, count=9)
    for requests in (one, two):
        requests.leave()
    assert [consumer["name"] for consumer in consumers(store)] == [b"one"]
    one.done(given)
    one.leave()
    assert consumers(store) == []


def consumers(store: Store) -> Any:
    return store.redis.xinfo_consumers(store.keys.requests("tiny", 0), "compute")


def test_how_much_waits(store: Store) -> None:
    one = requests_of(store)
    assert one.waiting()["tiny"].length == 0
    store.enqueue([request(1), request(2)])
    time.sleep(0.02)
    waiting = one.waiting()["tiny"]
    assert waiting.length == 2
    assert 0.01 < waiting.oldest_seconds < 10


def test_partitions_are_shared_out(store: Store) -> None:
    keys = Keys(4)
    several = Store(store.redis, keys)
    several.enqueue([request(user) for user in range(40)])
    low, high = (requests_of(several, consumer=name, partitions=own) for name, own in (("l", [0, 1]), ("h", [2, 3])))
    found = [users(requests.read({"tiny"}, count=100)) for requests in (low, high)]
    assert [{keys.partition(user) for user in those} for those in found] == [{0, 1}, {2, 3}]
    assert sorted(found[0] + found[1]) == [*range(40)]
    with pytest.raises(ValueError, match=r"partitions \[4\]: the store has 4"):
        streams_of(["tiny"], [3, 4], keys)
