"""Workers against a real store: nothing that was accepted is lost, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from serving.compute.worker import Options
from serving.store import Store
from tests.serving.compute.world import (
    NOW_MS,
    QUICK,
    Watching,
    World,
    expected,
    payload,
    request,
    requests_of,
    stored,
    stream_length,
    wait_until,
    working,
)

USERS = [*range(1, 40), -7, 2**62]


def test_a_users_vectors_are_those_of_the_batch(world: World, store: Store) -> None:
    assert store.enqueue([request(user) for user in USERS]) == [1] * len(USERS)
    with working(world, store) as worker:
        wait_until(lambda: stream_length(store) == 0)
    for user, vectors in zip(USERS, expected(world.versions[0], USERS), strict=True):
        (record,) = store.read(user, ("tiny",))
        assert record is not None
        assert [int(record.entries[name][0]) for name in ("version", "feature_ms")] == [1, NOW_MS]
        np.testing.assert_array_equal(record.entries["vectors"][0], vectors)
    counted = worker.statistics.snapshot()
    assert counted["written"] == {"model=tiny": len(USERS)} == counted["computed"]
    assert (counted["done"], sum(counted["latency"]["buckets"])) == ({"": len(USERS)}, len(USERS))


def test_models_of_a_source_are_written_together(world: World, store: Store) -> None:
    store.enqueue([request(user) for user in USERS])
    with working(world, store, world.recipe, world.other) as worker:
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, USERS) == stored(store, USERS, "other") == [[(1, NOW_MS)]] * len(USERS)
    assert worker.statistics.snapshot()["computed"] == {"model=tiny": len(USERS), "model=other": len(USERS)}
    found = store.read(USERS[0], ("tiny", "other"))
    assert not np.array_equal(found[0].entries["vectors"], found[1].entries["vectors"])  # type: ignore[union-attr]


def test_what_waits_is_computed_once_and_what_comes_meanwhile_again(world: World, store: Store) -> None:
    load, entered, go = Watching(), threading.Event(), threading.Event()
    assert store.enqueue([request(7, feature_ms=NOW_MS + i) for i in range(5)]) == [1, 0, 0, 0, 0]

    def hold(users: list[int]) -> None:
        entered.set()
        assert go.wait(20)

    with working(world, store, load=load) as worker:  # warm before it is held
        worker_batches = load.tower.batches
        wait_until(lambda: stream_length(store) == 0)
        assert worker_batches[-1] == [7]
        load.tower.before = hold
        seen = len(worker_batches)
        store.enqueue([request(7, feature_ms=NOW_MS + 10)])
        assert entered.wait(20)
        assert store.enqueue([request(7, feature_ms=NOW_MS + 20), request(7, feature_ms=NOW_MS + 30)]) == [1, 0]
        go.set()
        wait_until(lambda: stream_length(store) == 0)
        assert worker_batches[seen:] == [[7], [7]]
    assert stored(store, [7]) == [[(1, NOW_MS + 30), (1, NOW_MS + 10), (1, NOW_MS + 4)]]
    assert worker.statistics.total("done") == 3


def test_champions_are_exchanged_under_load_and_nothing_is_dropped(world: World, store: Store) -> None:
    accepted: dict[int, int] = {}
    enough = threading.Event()
    answers = {1: 0, 0: 0, -1: 0}

    def ask(number: int) -> None:
        rng = np.random.default_rng(number)
        for at in itertools.count():
            if enough.is_set():
                return
            asked = [
                request(int(user) * 2 + number, feature_ms=NOW_MS + at, longest=60) for user in rng.integers(0, 50, 16)
            ]
            for one, answer in zip(asked, store.enqueue(asked), strict=True):
                answers[answer] += 1
                if answer >= 0:
                    accepted[one.user] = one.feature_ms
            time.sleep(0.002)

    options = Options(latency_ms=5, claim_seconds=10, most_users=32)
    with working(world, store, options=options) as worker:
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
        for client in clients:
            client.start()
        for number in (2, 3, 1, 3):
            world.promote(number)
            worker._champions.poll()
        enough.set()
        for client in clients:
            client.join()
        wait_until(lambda: stream_length(store) == 0)
    for user, feature_ms in accepted.items():
        (entries,) = stored(store, [user])
        assert entries[0][1] >= feature_ms
    assert {version for entries in stored(store, sorted(accepted)) for version, _ in entries} >= {3}
    assert worker.statistics.total("done") == answers[1]
    assert worker.statistics.snapshot()["swaps"] == {"model=tiny": 5}
    assert store.redis.xpending(store.keys.requests("tiny", 0), "compute")["pending"] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(payload(3)[:12] + struct.pack("<f", -5.0) + payload(3)[16:], "model=all,reason=unreadable",
                     id="a number without a logarithm"),
        pytest.param(payload(3)[:-1] + b"\xff", "model=all,reason=unreadable", id="a negative id"),
        pytest.param(b"x" * 50, "model=all,reason=unreadable", id="of another schema"),
        pytest.param(payload(3)[:-3], "model=all,reason=unreadable", id="cut off"),
    ],
)  # fmt: skip
def test_a_user_without_usable_features_is_refused_alone(world: World, store: Store, bad: bytes, reason: str) -> None:
    store.enqueue([request(user, features=bad if user == 3 else None) for user in range(1, 9)])
    with working(world, store) as worker:
        wait_until(lambda: stream_length(store) == 0)
    assert [bool(one) for one in stored(store, range(1, 9))] == [user != 3 for user in range(1, 9)]
    assert worker.statistics.snapshot()["refused"] == {reason: 1}


def test_users_whose_features_a_model_refuses_are_found_by_halving(world: World, store: Store) -> None:
    def refuse(users: list[int]) -> None:
        if bad := {3, 17, 18} & set(users):
            raise ValueError(f"ids of {bad}")

    load = Watching()
    with working(world, store, load=load) as worker:
        load.tower.check = refuse
        store.enqueue([request(user) for user in range(40)])
        wait_until(lambda: stream_length(store) == 0)
    assert [user for user, entries in enumerate(stored(store, range(40))) if not entries] == [3, 17, 18]
    assert worker.statistics.snapshot()["refused"] == {"model=tiny,reason=features": 3}


def test_a_user_whose_vector_is_not_finite_is_refused_alone(world: World, store: Store) -> None:
    def spoil(users: list[int], vectors: np.ndarray) -> None:  # type: ignore[type-arg]
        for user, value in ((3, np.nan), (5, 65_520.0)):  # the second is what float16 cannot hold
            if user in users:
                vectors[users.index(user), 1, 2] = value

    load = Watching()
    with working(world, store, load=load) as worker:
        load.tower.spoil = spoil
        store.enqueue([request(user) for user in range(1, 9)])
        wait_until(lambda: stream_length(store) == 0)
    assert [bool(one) for one in stored(store, range(1, 9))] == [user not in (3, 5) for user in range(1, 9)]
    assert worker.statistics.snapshot()["refused"] == {"model=tiny,reason=not_finite": 2}


def test_gone_features_and_what_is_no_request(world: World, store: Store) -> None:
    stream = store.keys.requests("tiny", 0)
    store.enqueue([request(1), request(2), request(3, feature_ms=int(1000 * time.time()) + 50_000)])
    store.redis.delete(store.keys.features("tiny", 1))
    store.redis.xadd(stream, {"u": "nobody"})
    store.redis.xadd(stream, {"u": str(2**80)})
    store.redis.xadd(stream, {"v": "1"})
    with working(world, store) as worker:
        wait_until(lambda: stream_length(store) == 0)
    assert [bool(one) for one in stored(store, [1, 2, 3])] == [False, True, True]
    assert worker.statistics.snapshot()["refused"] == {"model=all,reason=features_gone": 1}


def test_who_waits_is_told_at_once(world: World, store: Store) -> None:
    stream, reply = store.keys.requests("tiny", 0), "um:{0}:r:1"
    with working(world, store, options=Options(latency_ms=60_000)):
        store.enqueue([request(1, longest=0)])  # its features alone
        store.redis.xadd(stream, {"u": 1, "r": reply})
        store.redis.xadd(stream, {"u": 1, "r": "um:{1}:r:of another slot"})
        assert store.redis.blpop([reply], timeout=20) is not None
        assert stored(store, [1]) == [[(1, NOW_MS)]]


def test_requests_are_waited_for_while_the_oldest_is_young(world: World, store: Store) -> None:
    load = Watching()
    with working(world, store, load=load, options=Options(latency_ms=1_000)):
        seen = len(load.tower.batches)
        for user in range(5):
            store.enqueue([request(user)])
            time.sleep(0.02)
        wait_until(lambda: stream_length(store) == 0)
    assert [len(users) for users in load.tower.batches[seen:]] == [5]


def test_a_slow_tower_is_given_as_many_users_as_it_computes_in_time(world: World, store: Store) -> None:
    def toil(users: list[int]) -> None:
        end = time.thread_time() + 0.001 * len(users)
        while time.thread_time() < end:
            pass

    load = Watching()
    with working(world, store, load=load, options=Options(latency_ms=100)):
        load.tower.before = toil
        store.enqueue([request(user) for user in range(40)])
        wait_until(lambda: stream_length(store) == 0)
        seen = len(load.tower.batches)
        store.enqueue([request(user) for user in range(200)])
        wait_until(lambda: stream_length(store) == 0)
    sizes = [len(users) for users in load.tower.batches[seen:]]
    assert sum(sizes) == 200
    assert max(sizes) <= 100  # which take all of the target


def test_what_a_dead_worker_left_is_taken_over(world: World, store: Store) -> None:
    store.enqueue([request(user) for user in USERS])
    dead = requests_of(store, consumer="dead")
    taken = dead.read({"tiny"}, count=20)
    dead.take(taken)
    with working(world, store) as worker:
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, USERS) == [[(1, NOW_MS)]] * len(USERS)
    assert worker.statistics.total("claimed") == 20
    assert dead.done(taken) == 0  # it wakes up: nobody counts them twice


def test_an_entry_that_fails_every_worker_is_set_aside(world: World, store: Store) -> None:
    def fail(users: list[int]) -> None:
        if 666 in users:
            raise RuntimeError("a tower's bug")

    load = Watching()
    with working(world, store, load=load) as worker:
        load.tower.before = fail
        store.enqueue([request(user) for user in [*USERS, 666]])
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, [*USERS, 666]) == [[(1, NOW_MS)]] * len(USERS) + [[]]
    ((_, aside),) = store.redis.xrange(store.keys.requests("tiny", 0) + ":aside")  # type: ignore[misc]
    assert (aside[b"u"], aside[b"deliveries"]) == (b"666", str(QUICK.most_deliveries + 1).encode())
    assert worker.statistics.total("set_aside") == 1


def test_two_workers_share_the_users(world: World, store: Store) -> None:
    users = range(400)
    options = Options(latency_ms=0, most_users=16)
    with working(world, store, options=options) as one, working(world, store, options=options, consumer="two") as two:
        store.enqueue([request(user) for user in users])
        wait_until(lambda: stream_length(store) == 0)
    done = [worker.statistics.total("done") for worker in (one, two)]
    assert sum(done) == 400
    assert min(done) > 0
    assert stored(store, users) == [[(1, NOW_MS)]] * 400


def test_a_draining_worker_finishes_what_it_took(world: World, store: Store) -> None:
    load, entered = Watching(), threading.Event()

    def slowly(users: list[int]) -> None:
        entered.set()
        time.sleep(0.1)

    with working(world, store, load=load, options=Options(latency_ms=0, most_users=8)) as worker:
        load.tower.before = slowly
        store.enqueue([request(user) for user in range(80)])
        assert entered.wait(20)
    done = int(worker.statistics.total("done"))
    assert 8 <= done < 80
    assert stream_length(store) == 80 - done
    assert consumers(store) == []  # it left
    with working(world, store, consumer="next"):
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, range(80)) == [[(1, NOW_MS)]] * 80


def consumers(store: Store) -> Sequence[object]:
    found: Sequence[object] = store.redis.xinfo_consumers(store.keys.requests("tiny", 0), "compute")  # type: ignore[assignment]
    return found


def test_an_emptied_store_is_served_again(world: World, store: Store) -> None:
    with working(world, store) as worker:
        store.enqueue([request(1)])
        wait_until(lambda: worker.statistics.total("done") == 1)
        store.redis.flushall()
        store.redis.script_flush()
        store.enqueue([request(2)])
        wait_until(lambda: bool(stored(store, [2])[0]))


def test_dropped_connections_are_made_again(world: World, store: Store) -> None:
    with working(world, store) as worker:
        for user in range(30):
            store.enqueue([request(user)])
            if user % 10 == 5:
                store.redis.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, range(30)) == [[(1, NOW_MS)]] * 30
    assert worker.statistics.total("done") == 30
