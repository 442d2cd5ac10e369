"""The reader: the best there is, at once, whatever is the matter; the rest is handed on behind the answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.compute.queue import store_ms
from serving.solaris.interfaces import Likely
from serving.solaris.levels import Level
from serving.solaris.model import PairModel
from serving.solaris.neighbours import Neighbours
from serving.solaris.reader import Options, PairReader
from serving.solaris.refresh import enqueue_likely
from serving.solaris.store import PairStore
from tests.serving.servers import Server, free_port, in_thread, until
from tests.serving.solaris.world import (
    MODEL,
    Formula,
    kept,
    queue_of,
    vector,
    with_model,
    worker_of,
    write,
)

QUICK = Options(send_seconds=0.001, refresh_seconds=0.02, pause_seconds=0.02, neighbours_seconds=0.01)
SECONDS = 20.0


@contextmanager
def reader_of(server: Server, model: PairModel = MODEL, options: Options = QUICK, **more: Any) -> Iterator[PairReader]:
    with PairReader(server.url, model, options, **more) as reader:
        yield reader


def waiting(store: PairStore) -> dict[tuple[int, int], float]:
    """Pairs on the queue, with their priorities."""
    taken = queue_of(store).take(most=1_000, lease_seconds=0.001, most_deliveries=100).pairs
    time.sleep(0.002)
    return {(one.user, one.item): one.priority for one in taken}


def test_exact_pairs_come_with_their_ages_and_the_others_at_their_level(server: Server, store: PairStore) -> None:
    write(store, 7, 1, 3, version=4)
    time.sleep(0.005)
    with reader_of(server) as reader:
        answer = reader.read(7, [3, 2, 1])
    assert answer.levels.tolist() == [Level.EXACT, Level.USER, Level.EXACT]
    assert answer.vectors.tolist() == [vector(7, 3), [7.0, 2.0, 1.0, 0.5], vector(7, 1)]
    assert answer.versions.tolist() == [4, 0, 4]
    assert 0.004 < answer.ages_seconds[0] < 10
    assert np.isnan(answer.ages_seconds).tolist() == [False, True, False]
    assert (answer.outcome, answer.misses.tolist(), answer.user) == ("found", [2], 7)


def test_numpys_numbers_are_user_ids(server: Server, store: PairStore) -> None:
    write(store, 7, 1)
    with reader_of(server, options=replace(QUICK, log_share=1.0)) as reader:
        for user in (np.int64(7), np.uint8(7)):
            answer = reader.read(user, [1])
            assert (type(answer.user), answer.levels.tolist()) == (int, [Level.EXACT])
        assert reader.flush()


def test_a_cold_user_is_served_what_is_known_of_the_items(server: Server, store: PairStore) -> None:
    for user in (10, 20):
        write(store, user, 5)
    with reader_of(server) as reader:
        first = reader.read(9, [5, 6])
        assert (first.levels.tolist(), first.outcome) == ([Level.ZERO, Level.ZERO], "cold")
        assert reader.flush()
        second = reader.read(8, [5, 6])
        assert second.levels.tolist() == [Level.NEIGHBOURS, Level.ZERO]
        assert second.vectors.tolist() == [[15.0, 5.0, 1.0, 0.5], [0.0] * 4]
        write(store, 30, 5)
        time.sleep(0.02)
        until(lambda: reader.flush() and reader.read(8, [5]).vectors[0, 0] == 20.0, seconds=SECONDS)
        found = reader.statistics
        assert found.total("served", level="zero") == 3
        assert found.total("requests", outcome="cold") == found.total("requests")


def test_misses_and_what_is_nearly_too_old_are_handed_on(server: Server, store: PairStore) -> None:
    def priorities(user: int, items: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return items / 10

    young = replace(MODEL, ttl_seconds=60.0, refresh_share=0.99995)
    write(store, 7, 1)
    time.sleep(0.01)
    with reader_of(server, young, priorities=priorities) as reader:
        assert reader.read(7, [1, 2, 3]).levels.tolist() == [Level.EXACT, Level.USER, Level.USER]
        assert reader.flush()
        assert waiting(store) == {(7, 1): 0.1, (7, 2): 0.2, (7, 3): 0.3}
        assert reader.statistics.total("refreshes") == 1
        assert reader.statistics.total("enqueued", outcome="queued") == 3
    with reader_of(server) as reader:
        reader.read(7, [1])
        assert reader.statistics.total("refreshes") == 0, "it has a day"


def test_a_predictor_that_fails_costs_its_own_pairs(server: Server, store: PairStore) -> None:
    def priorities(user: int, items: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.full(len(items), np.nan if user == 1 else 0.5)

    with reader_of(server, priorities=priorities) as reader:
        for user in (1, 2):
            reader.read(user, [4])
        assert reader.flush()
        assert waiting(store) == {(2, 4): 0.5}
        assert reader.statistics.total("enqueued", outcome="failed") == 1


def test_what_outlived_its_time_is_not_served(server: Server, store: PairStore) -> None:
    write(store, 7, 1)
    time.sleep(0.03)
    with reader_of(server, replace(MODEL, ttl_seconds=0.02)) as reader:
        assert (reader.read(7, [1]).levels.tolist(), reader.read(7, [1]).outcome) == ([Level.ZERO], "cold")


def test_a_damaged_record_is_a_miss(server: Server, store: PairStore) -> None:
    store.redis.set(store.keys.user(7), b"noise")
    with reader_of(server) as reader:
        answer = reader.read(7, [1])
        assert (answer.outcome, answer.levels.tolist()) == ("damaged", [Level.ZERO])
        assert reader.flush()
    assert waiting(store) == {(7, 1): 1.0}


def test_values_of_other_types_are_as_nothing(server: Server, store: PairStore) -> None:
    """Neither the store's servers are taken for broken, nor does a worker end."""
    for name in (store.keys.user(7), store.keys.item(5), store.keys.keys.features("s", 7)):
        store.redis.delete(name)
        store.redis.rpush(name, "x")
    with in_thread(worker_of(store, Formula())) as worker, reader_of(server) as reader:
        for _ in range(10):
            assert (reader.read(7, [5]).outcome, reader.read(7, [5]).levels.tolist()) == ("cold", [Level.ZERO])
        reader.read(8, [5])
        assert reader.flush()
        until(lambda: reader.read(8, [5]).levels.tolist() == [Level.EXACT], seconds=SECONDS)
        assert worker.statistics.total("refused", reason="no_features") >= 1


def test_the_round_of_a_miss(server: Server, store: PairStore) -> None:
    """Asked for, computed behind the answer, and there the next time; asking again computes nothing."""
    formula = Formula()
    with in_thread(worker_of(store, formula)), reader_of(server) as reader:
        assert reader.read(7, [1, 2]).levels.tolist() == [Level.ZERO] * 2
        until(lambda: reader.read(7, [1, 2]).levels.tolist() == [Level.EXACT] * 2, seconds=SECONDS)
        reader.flush()
        until(lambda: queue_of(store).length()[:2] == (0, 0), seconds=SECONDS)
        computed = len(formula.batches)
        for _ in range(20):
            reader.read(7, [2, 1])
        assert reader.flush()
    assert len(formula.batches) == computed


def test_no_read_waits_for_a_stopped_worker(server: Server, store: PairStore) -> None:
    """The queue runs full behind a foundation model that never answers; the answers are what they were."""
    small = replace(MODEL, longest_queue=8)
    write(store, 7, 1)
    with reader_of(server, small) as reader:
        for number in range(200):
            began = time.monotonic()
            answer = reader.read(7, [1, 100 + number])
            assert time.monotonic() - began < 1.0
            assert (answer.outcome, answer.levels.tolist()) == ("found", [Level.EXACT, Level.USER])
        assert reader.flush()
        assert reader.statistics.total("enqueued", outcome="shed") == 192
    assert queue_of(with_model(store, longest_queue=8)).length() == (8, 0, 0)


def test_no_read_waits_for_a_stopped_store(server: Server, store: PairStore) -> None:
    """Late, and after some of them not asked; answers again soon after it goes on."""
    write(store, 7, 1)
    urgent = replace(MODEL, deadline_ms=30.0)
    with reader_of(server, urgent, replace(QUICK, refresh_seconds=0.05)) as reader:
        until(lambda: reader.read(7, [1]).outcome == "found", seconds=SECONDS)
        reader.flush()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            outcomes = [reader.read(7, [1, 2]) for _ in range(200)]
            took = time.monotonic() - began
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert {one.outcome for one in outcomes} == {"late", "unavailable"}
        assert {tuple(one.levels.tolist()) for one in outcomes} == {(Level.ZERO, Level.ZERO)}
        assert took < 2.0, "a handful waited for the deadline, and no more"
        until(lambda: reader.read(7, [1]).outcome == "found", seconds=SECONDS)
    assert waiting(store) == {}, "what the store did not answer is no miss"


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with PairReader(f"redis://127.0.0.1:{free_port()}", MODEL, QUICK) as reader:
        answer = reader.read(7, [1, 2])
        assert (answer.outcome, answer.levels.tolist()) == ("unavailable", [Level.ZERO] * 2)


def test_what_does_not_fit_is_dropped_and_counted(server: Server, store: PairStore) -> None:
    with reader_of(server, options=replace(QUICK, buffer=3, send_seconds=0.2)) as reader:
        reader.want([Likely(1, item, 1.0) for item in range(5)])
        assert reader.statistics.total("enqueued", outcome="dropped") == 2
        assert reader.flush()
        reader.read(2, [*range(5), *range(5)])
        assert reader.statistics.total("enqueued", outcome="dropped") == 4, "those of a read that fit are kept"
        assert reader.flush()
    assert len(waiting(store)) == 6


def test_a_pair_that_is_asked_for_twice_is_handed_on_once(server: Server, store: PairStore) -> None:
    with reader_of(server, options=replace(QUICK, buffer=2)) as reader:
        assert len(reader.read(1, [4, 3, 4, 4]).items) == 4
        assert reader.flush()
        assert reader.statistics.total("enqueued", outcome="queued") == 2


def test_what_the_queue_refuses_stops_nothing_else(server: Server, store: PairStore) -> None:
    """Neither the log nor the neighbours wait for what will not pass."""
    write(store, 10, 5)
    store.redis.set(store.keys.queue(0), "no sorted set")
    with reader_of(server, options=replace(QUICK, log_share=1.0)) as reader:
        assert reader.read(9, [5]).levels.tolist() == [Level.ZERO]
        assert reader.flush()
        assert reader.read(9, [5]).levels.tolist() == [Level.NEIGHBOURS]
        assert reader.flush()
        assert reader.statistics.total("enqueued", outcome="dropped") == 2
        assert reader.statistics.total("logged", outcome="written") == 2


def test_a_neighbours_mean_is_no_older_than_a_representation_may_be(store: PairStore) -> None:
    write(store, 10, 5)
    now_ms, neighbours = float(store_ms(store.redis)), Neighbours(capacity=9, stale_seconds=1e6)
    assert neighbours.of([5], now_ms=now_ms) == {}
    neighbours.fetch(store, now_ms=now_ms)
    almost = now_ms + 1000 * (MODEL.ttl_seconds - SECONDS)
    assert [neighbours.of([5], now_ms=at).keys() for at in (now_ms, almost)] == [{5}, {5}]
    assert neighbours.of([5], now_ms=now_ms + 1000 * MODEL.ttl_seconds) == {}


@pytest.mark.parametrize(
    ("user", "items", "words"),
    [
        pytest.param(7, [1.5], "no list of whole numbers", id="a fraction"),
        pytest.param(7, [2**63], "whole numbers of 64 bits", id="too great"),
        pytest.param(7, 3, "no list", id="a number"),
        pytest.param(7, range(1_001), "1001 items; fm is asked for 1000 at most", id="too many"),
        pytest.param(2**63, [1], "no user id", id="user"),
        pytest.param(np.uint64(2**63), [1], "no user id", id="another type's user"),
        pytest.param("7", [1], "no user id", id="a word"),
        pytest.param(True, [1], "no user id", id="a truth"),
    ],
)
def test_what_is_wrong_with_a_request(server: Server, user: Any, items: Any, words: str) -> None:
    with reader_of(server) as reader, pytest.raises(ValueError, match=words):
        reader.read(user, items)


def test_the_predictors_pairs_are_queued_where_they_are_due(store: PairStore) -> None:
    write(store, 1, 10)
    store.redis.set(store.keys.user(3), b"noise")
    asked = [Likely(1, 10, 0.9), Likely(1, 11, 0.8), Likely(2, 10, 0.7), Likely(3, 10, 0.6)]
    assert enqueue_likely(store, iter(asked)) == {"queued": 3, "fresh": 1}
    assert set(waiting(store)) == {(1, 11), (2, 10), (3, 10)}
    time.sleep(0.01)
    assert enqueue_likely(with_model(store, refresh_share=1 - 1e-8), asked[:1]) == {"queued": 1}


def test_of_a_share_of_the_users_everything_is_logged(server: Server, store: PairStore) -> None:
    with reader_of(server, options=replace(QUICK, log_share=0.3)) as reader:
        for user in [*range(200), *range(200)]:
            reader.read(user, [1])
        assert reader.flush()
        logged: Any = store.redis.xrange(store.keys.log(0))
    users = [int.from_bytes(fields[b"r"][:8], "little") for _, fields in logged]
    assert sorted(users[: len(users) // 2]) == sorted(set(users))
    assert 40 < len(set(users)) < 80


def test_the_record_of_a_served_user_is_as_it_was(server: Server, store: PairStore) -> None:
    write(store, 7, 1, 2)
    before = kept(store, 7)
    with reader_of(server) as reader:
        for _ in range(5):
            reader.read(7, [1, 5])
    assert kept(store, 7) == before
