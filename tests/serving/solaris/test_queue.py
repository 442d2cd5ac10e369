"""The queue of pairs: highest priority first, coalesced, bounded, leased, within the budget."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from serving.solaris.interfaces import Likely
from serving.solaris.queue import Leased, PairQueue
from serving.solaris.store import PairStore
from tests.serving.servers import Server
from tests.serving.solaris.world import MODEL, SIXTEEN, give_features, queue_of, with_model


def take(queue: PairQueue, most: int = 10, *, lease_seconds: float = 60.0, most_deliveries: int = 2) -> list[Leased]:
    return queue.take(most=most, lease_seconds=lease_seconds, most_deliveries=most_deliveries).pairs


def pairs_of(taken: list[Leased]) -> list[tuple[int, int]]:
    return [(one.user, one.item) for one in taken]


def test_the_highest_priority_comes_first_and_a_pair_waits_once(store: PairStore) -> None:
    asked = [Likely(1, 10, 0.1), Likely(2, 20, 0.9), Likely(3, -30, 0.5), Likely(1, 10, 0.7), Likely(2, 20, 0.2)]
    assert store.enqueue(asked) == Counter(queued=3, coalesced=2)
    queue = queue_of(store)
    assert [(one.user, one.item, one.priority) for one in take(queue, 2)] == [(2, 20, 0.9), (1, 10, 0.7)]
    assert pairs_of(take(queue)) == [(3, -30)]
    assert take(queue) == []


def test_a_user_without_features_is_not_queued(store: PairStore) -> None:
    nobody = 10**6
    assert store.enqueue([Likely(nobody, 1, 1.0), Likely(1, 1, 1.0), Likely(nobody, 2, 9.0)]) == Counter(
        queued=1, no_features=2
    )
    assert pairs_of(take(queue_of(store))) == [(1, 1)]


def test_what_is_worked_on_is_not_queued_until_it_is_done(store: PairStore) -> None:
    queue = queue_of(store)
    store.enqueue([Likely(1, 1, 1.0)])
    taken = take(queue)
    assert store.enqueue([Likely(1, 1, 1.0)]) == Counter(coalesced=1)
    assert (queue.done(taken), queue.done(taken)) == (1, 0)
    assert store.enqueue([Likely(1, 1, 1.0)]) == Counter(queued=1)


def test_a_full_queue_sheds_the_lowest_priority(store: PairStore) -> None:
    small = with_model(store, longest_queue=3)
    assert small.enqueue(Likely(1, item, item / 10) for item in (1, 2, 3)) == Counter(queued=3)
    assert small.enqueue([Likely(1, 4, 0.05)]) == Counter(shed=1)
    assert small.enqueue([Likely(1, 5, 0.5)]) == Counter(queued=1, shed=1)
    assert small.enqueue([Likely(1, 2, 0.6)]) == Counter(coalesced=1)
    assert pairs_of(take(queue_of(small))) == [(1, 2), (1, 5), (1, 3)]


def test_nothing_is_left_of_what_came_back_and_was_shed(store: PairStore) -> None:
    small = with_model(store, longest_queue=1)
    queue = queue_of(small)
    small.enqueue([Likely(1, 1, 0.1)])
    take(queue, lease_seconds=0.01)
    small.enqueue([Likely(2, 2, 0.9)])
    time.sleep(0.02)
    assert pairs_of(take(queue, 1)) == [(2, 2)]
    assert small.enqueue([Likely(3, 3, 0.5)]) == Counter(queued=1, shed=1)
    assert store.redis.hlen(store.keys.held(0)) == 1, "of the pair that is worked on"


@pytest.mark.parametrize("priority", [float("nan"), float("inf"), -1e300], ids=["nan", "inf", "no float32"])
def test_a_priority_is_finite(store: PairStore, priority: float) -> None:
    with pytest.raises(ValueError, match="the priority is a finite number"):
        store.enqueue([Likely(1, 2, priority)])


def test_a_lease_that_ends_gives_the_pair_to_the_next_and_then_sets_it_aside(store: PairStore) -> None:
    queue = queue_of(store)
    store.enqueue([Likely(1, 1, 0.5), Likely(2, 2, 0.4)])
    assert [one.deliveries for one in take(queue, lease_seconds=0.02)] == [1, 1]
    assert take(queue) == []
    time.sleep(0.03)
    store.enqueue([Likely(3, 3, 0.45)])
    again = queue.take(most=10, lease_seconds=0.02, most_deliveries=2)
    assert pairs_of(again.pairs) == [(1, 1), (3, 3), (2, 2)], "by priority, with what came meanwhile"
    assert ([one.deliveries for one in again.pairs], again.again, again.aside) == ([2, 1, 2], 2, 0)
    queue.done([one for one in again.pairs if one.user == 2])
    time.sleep(0.03)
    last = queue.take(most=10, lease_seconds=60, most_deliveries=2)
    assert (pairs_of(last.pairs), last.aside) == ([(3, 3)], 1)
    assert queue.length() == (0, 1, 1)
    assert store.enqueue([Likely(1, 1, 0.5)]) == Counter(queued=1), "who asks again, tries again"
    assert [one.deliveries for one in take(queue)] == [1]


def test_the_budget_is_of_all_workers(server: Server, store: PairStore) -> None:
    limited = with_model(store, pairs_per_second=200.0)
    limited.enqueue(Likely(1, item, 1.0) for item in range(2_000))

    def worker(_: int) -> int:
        with server.client() as client:
            queue, taken = queue_of(PairStore(client, limited.model)), 0
            while time.monotonic() < end:
                taken += len(take(queue, 7))
                time.sleep(0.001)
        return taken

    began = time.monotonic()
    end = began + 0.6
    with ThreadPoolExecutor(3) as pool:
        taken = sum(pool.map(worker, range(3)))
    longest = time.monotonic() - began
    assert 200 < taken <= 200 + 200 * longest + 2, "a second's worth at once, then what the budget gives"


def test_workers_share_the_queue_without_overlap(server: Server, store: PairStore) -> None:
    store.enqueue(Likely(user, item, user + item) for user in range(20) for item in range(25))

    def worker(_: int) -> list[tuple[int, int]]:
        found = []
        with server.client() as client:
            queue = queue_of(PairStore(client, MODEL))
            while taken := take(queue, 13):
                found += pairs_of(taken)
                queue.done(taken)
        return found

    with ThreadPoolExecutor(4) as pool:
        found = [pair for of_worker in pool.map(worker, range(4)) for pair in of_worker]
    assert sorted(found) == [(user, item) for user in range(20) for item in range(25)]
    assert queue_of(store).length() == (0, 0, 0)


def test_what_is_no_pair_is_dropped(store: PairStore) -> None:
    store.redis.zadd(store.keys.queue(0), {b"noise": 1.0})
    store.enqueue([Likely(1, 1, 0.5)])
    assert pairs_of(take(queue_of(store))) == [(1, 1)]
    assert queue_of(store).length() == (0, 1, 0)


def test_partitions_are_the_stores(store: PairStore) -> None:
    with pytest.raises(ValueError, match="partitions"):
        PairQueue(store.redis, MODEL, store.keys.keys, [1])


def test_of_a_pair_that_kills_whoever_computes_it_nobody_else_is_set_aside(store: PairStore) -> None:
    queue, killer = queue_of(store), (1, 0)
    store.enqueue(Likely(1, item, 10.0 - item) for item in range(10))
    sizes = []
    while queue.length()[:2] != (0, 0):
        taken = queue.take(most=10, lease_seconds=0.01, most_deliveries=4).pairs
        sizes.append(len(taken))
        if killer not in pairs_of(taken):
            queue.done(taken)
        time.sleep(0.015)
    assert queue.length() == (0, 0, 1)
    assert sizes == [10, 10, 1, 1] + [1] * 9, "what was given out twice comes alone"


def test_who_comes_alone_waits_for_what_goes_first_and_costs_the_budget_one(store: PairStore) -> None:
    limited = with_model(store, pairs_per_second=1e-3)
    queue, unlimited = queue_of(limited), queue_of(store)
    store.enqueue([Likely(1, 1, 0.5), Likely(1, 2, 0.4)])
    for _ in range(2):
        assert len(take(unlimited, lease_seconds=0.01, most_deliveries=9)) == 2
        time.sleep(0.015)
    store.enqueue([Likely(2, 1, 0.9), Likely(2, 2, 0.8), Likely(2, 3, 0.1)])
    assert pairs_of(take(unlimited, most_deliveries=9)) == [(2, 1), (2, 2)]
    assert pairs_of(take(queue, most_deliveries=9)) == [(1, 1)]
    free: Any = store.redis.get(store.keys.rate(0))
    now: Any = store.redis.time()
    assert float(free) - 1e6 * now[0] - now[1] < 5e8, "one pair's thousand seconds"


def spread(store: PairStore, count: int) -> PairStore:
    """A store of sixteen partitions, and a pair that waits of each of so many users."""
    many = PairStore(store.redis, MODEL, SIXTEEN)
    give_features(many, range(count))
    many.enqueue(Likely(user, 1, 1.0) for user in range(count))
    return many


def test_no_more_are_taken_than_asked_for_however_many_partitions(store: PairStore) -> None:
    queue = queue_of(spread(store, 40))
    takes = [take(queue, 6) for _ in range(40)]
    assert max(map(len, takes)) <= 6
    assert sorted(one.user for taken in takes for one in taken) == list(range(40))


def test_a_partition_that_fails_takes_nothing_from_the_others(store: PairStore) -> None:
    many = spread(store, 40)
    broken = many.keys.keys.partition(7)
    many.redis.set(many.keys.rate(broken), b"noise")
    limited = with_model(many, pairs_per_second=1e9)
    found = sorted(one.user for one in take(queue_of(limited), 160))
    assert found == [user for user in range(40) if many.keys.keys.partition(user) != broken]
    with pytest.raises(redis.ResponseError):
        take(PairQueue(many.redis, limited.model, SIXTEEN, [broken]))


def test_the_length_of_what_is_no_queue_is_an_error(store: PairStore) -> None:
    store.redis.set(store.keys.queue(0), b"noise")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        queue_of(store).length()
