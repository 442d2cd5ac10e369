"""The worker: everything queued is represented once, refused with a reason, or set aside, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from infra.settings import REPOSITORY, child_environment
from serving.solaris.interfaces import Likely
from serving.solaris.store import PairStore
from serving.solaris.worker import Options
from tests.serving.servers import Server, in_thread, until
from tests.serving.solaris.world import (
    MODEL,
    NOW_MS,
    QUICK,
    SIXTEEN,
    Formula,
    give_features,
    kept,
    queue_of,
    vector,
    with_model,
    worker_of,
)

SECONDS = 20.0


def drained(store: PairStore) -> bool:
    return queue_of(store).length()[:2] == (0, 0)


def test_what_was_queued_is_in_the_store_with_the_features_time(store: PairStore) -> None:
    give_features(store, range(5), feature_ms=NOW_MS - 7)
    asked = [Likely(user, item, 1.0 + item) for user in range(5) for item in (3, 1, 2)]
    store.enqueue(asked)
    formula = Formula(version=9)
    with in_thread(worker_of(store, formula)) as worker:
        until(lambda: drained(store), seconds=SECONDS)
    for user in range(5):
        assert kept(store, user) == [(item, NOW_MS - 7, 9, 1.0 + item, float(user)) for item in (3, 2, 1)]
        found = store.read(user)
        assert found is not None
        assert found.entries["vector"].tolist() == [vector(user, item) for item in (3, 2, 1)]
    assert sorted(pair for batch in formula.batches for pair in batch) == sorted(one[:2] for one in asked), "once each"
    assert (worker.statistics.total("written"), worker.statistics.total("done")) == (15, 15)


def test_the_likeliest_are_computed_first(store: PairStore) -> None:
    store.enqueue(Likely(user, 1, float(user)) for user in range(40))
    formula = Formula()
    with in_thread(worker_of(store, formula)):
        until(lambda: drained(store), seconds=SECONDS)
    assert [sorted(user for user, _ in batch) for batch in formula.batches] == [
        list(range(24, 40)), list(range(8, 24)), list(range(8)),
    ]  # fmt: skip


def test_why_a_pair_cannot_be_computed(store: PairStore) -> None:
    def spoilt(pairs: list[tuple[int, int]]) -> None:
        assert (5, 5) not in pairs, "never given out"

    give_features(store, [6], feature_ms=NOW_MS + 10**8)
    store.redis.set(store.keys.keys.features("s", 3), NOW_MS.to_bytes(8, "little") + b"noise")
    store.enqueue([Likely(1, 5_000, 1.0), Likely(2, 1, 1.0), Likely(3, 1, 1.0), Likely(5, 5, 1.0), Likely(6, 1, 1.0)])
    store.redis.delete(store.keys.keys.features("s", 5))
    with in_thread(worker_of(store, Formula(before=spoilt))) as worker:
        until(lambda: drained(store), seconds=SECONDS)
    for reason in ("no_item", "unreadable", "no_features", "future"):
        assert worker.statistics.total("refused", reason=reason) == 1, reason
    assert (worker.statistics.total("done"), worker.statistics.total("written")) == (5, 1)


def test_a_representation_that_float16_cannot_hold_is_refused(store: PairStore) -> None:
    class Large(Formula):
        def represent(self, user_rows: object, item_rows: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            found = super().represent(user_rows, item_rows)
            found[found[:, 0] == 2] = 1e6
            return found

    store.enqueue([Likely(1, 1, 1.0), Likely(2, 1, 1.0)])
    with in_thread(worker_of(store, Large())) as worker:
        until(lambda: drained(store), seconds=SECONDS)
    assert (len(kept(store, 1)), len(kept(store, 2))) == (1, 0)
    assert worker.statistics.total("refused", reason="not_finite") == 1


def test_a_poisonous_pair_is_set_aside_and_its_batch_is_not(store: PairStore) -> None:
    def fails(pairs: list[tuple[int, int]]) -> None:
        if (3, 1) in pairs:
            raise RuntimeError("poison")

    store.enqueue(Likely(user, 1, 1.0) for user in range(8))
    impatient = replace(QUICK, lease_seconds=0.4, most_deliveries=2)
    with in_thread(worker_of(store, Formula(before=fails), impatient)) as worker:
        until(lambda: queue_of(store).length() == (0, 0, 1), seconds=SECONDS)
    assert [len(kept(store, user)) for user in range(8)] == [1, 1, 1, 0, 1, 1, 1, 1]
    assert (worker.statistics.total("set_aside"), worker.statistics.total("failed")) == (1, 2)


def test_several_workers_compute_each_pair_once(server: Server, store: PairStore) -> None:
    formulas = [Formula(before=lambda _: time.sleep(0.002)) for _ in range(3)]
    with ExitStack() as stack:
        for formula in formulas:
            client = stack.enter_context(server.client())
            stack.enter_context(in_thread(worker_of(PairStore(client, MODEL), formula, Options(most_pairs=8))))
        store.enqueue(Likely(user, item, 1.0) for user in range(30) for item in range(20))
        until(lambda: drained(store), seconds=SECONDS)
    pairs = [pair for formula in formulas for batch in formula.batches for pair in batch]
    assert sorted(pairs) == [(user, item) for user in range(30) for item in range(20)]
    assert all(formula.batches for formula in formulas)
    assert all(len(kept(store, user)) == 20 for user in range(30))


def test_a_worker_that_is_told_to_end_finishes_what_it_took(store: PairStore) -> None:
    store.enqueue(Likely(user, 1, 1.0) for user in range(64))
    formula = Formula(before=lambda _: time.sleep(0.05))
    with in_thread(worker_of(store, formula)) as worker:
        until(lambda: formula.batches, seconds=SECONDS)
    waiting, leased, _ = queue_of(store).length()
    assert leased == 0
    assert waiting + worker.statistics.total("done") == 64
    assert waiting > 0, "it took no more than what lay between its threads"
    assert sum(len(kept(store, user)) for user in range(64)) == worker.statistics.total("done")


def test_the_budget_holds_for_workers(store: PairStore) -> None:
    limited = with_model(store, pairs_per_second=20.0)
    store.enqueue(Likely(1, item, 1.0) for item in range(60))
    began = time.monotonic()
    with in_thread(worker_of(limited, Formula())) as worker:
        time.sleep(0.5)
    assert 20 <= worker.statistics.total("done") <= 22 + 20 * (time.monotonic() - began)


def test_a_worker_that_is_killed_loses_nothing(server: Server, store: PairStore) -> None:
    """SIGKILL while it computes: its pairs are taken over when their lease ends, and are computed once more."""
    store.enqueue(Likely(user, 1, 1.0) for user in range(12))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.serving.solaris.stuck", server.url], cwd=REPOSITORY, env=child_environment(),
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert len(json.loads(process.stdout.readline())) == 4
            until(lambda: queue_of(store).length() == (0, 12, 0), seconds=SECONDS)  # a batch in each of its threads
            time.sleep(1.2)
            assert queue_of(store).take(most=12, lease_seconds=1, most_deliveries=9).pairs == [], "it is alive"
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
    formula = Formula()
    with in_thread(worker_of(store, formula)) as worker:
        until(lambda: drained(store), seconds=SECONDS)
    assert all(len(kept(store, user)) == 1 for user in range(12))
    assert worker.statistics.total("taken_over") == 12


def test_pairs_of_a_batch_that_hangs_are_taken_over(server: Server, store: PairStore) -> None:
    store.enqueue([Likely(1, 1, 1.0)])
    hangs = threading.Event()
    stuck = worker_of(
        store, Formula(before=lambda _: hangs.wait(30)), replace(QUICK, lease_seconds=0.1, batch_seconds=0.1)
    )
    with in_thread(stuck), server.client() as client:
        until(lambda: queue_of(store).length() == (0, 1, 0), seconds=SECONDS)
        with in_thread(worker_of(PairStore(client, MODEL), Formula())) as other:
            until(lambda: other.statistics.total("done"), seconds=SECONDS)
        hangs.set()
    assert len(kept(store, 1)) == 1


def test_a_store_that_pauses_is_waited_for(server: Server, store: PairStore) -> None:
    with server.client() as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        give_features(store, range(4))
        formula = Formula(before=lambda _: os.kill(server.process.pid, signal.SIGSTOP))
        store.enqueue(Likely(user, 1, 1.0) for user in range(4))
        with in_thread(worker_of(PairStore(client, MODEL), formula)) as worker:
            until(lambda: worker.statistics.total("store_errors"), seconds=SECONDS)
            os.kill(server.process.pid, signal.SIGCONT)
            formula.before = lambda _: None
            until(lambda: drained(store), seconds=SECONDS)
    assert all(len(kept(store, user)) == 1 for user in range(4))


def given_out_twice(store: PairStore) -> int:
    """All that waits: how many there are."""
    for _ in range(2):
        taken = queue_of(store).take(most=10_000, lease_seconds=0.01, most_deliveries=9)
        time.sleep(0.02)
    return len(taken.pairs)


def test_what_others_died_of_is_computed_when_nothing_else_is_at_hand(store: PairStore) -> None:
    store.enqueue(Likely(user, 1, 1.0) for user in range(4))
    assert given_out_twice(store) == 4
    leased = []
    formula = Formula(before=lambda _: leased.append(queue_of(store).length()[1]))
    with in_thread(worker_of(store, formula)):
        until(lambda: drained(store), seconds=SECONDS)
    assert leased == [1] * 4
    assert [len(batch) for batch in formula.batches] == [1] * 4


def test_a_worker_keeps_what_waits_for_its_turn(server: Server, store: PairStore) -> None:
    """Of six partitions a pair each that is computed alone: together they take longer than a lease."""
    many = PairStore(store.redis, MODEL, SIXTEEN)
    firsts = {many.keys.keys.partition(user): user for user in range(100)}
    users = sorted(firsts.values())[:6]
    give_features(many, users)
    many.enqueue(Likely(user, 1, 1.0) for user in users)
    assert given_out_twice(many) == 6
    slow = Formula(before=lambda _: time.sleep(0.5))
    with server.client() as client, in_thread(worker_of(many, slow, replace(QUICK, lease_seconds=1.5))) as worker:
        until(lambda: slow.batches, seconds=SECONDS)
        with in_thread(worker_of(PairStore(client, MODEL, SIXTEEN), slow)) as other:
            until(lambda: drained(many), seconds=SECONDS)
    assert sorted(pair for batch in slow.batches for pair in batch) == [(user, 1) for user in users], "once each"
    assert worker.statistics.total("taken_over") + other.statistics.total("taken_over") == 6


def test_leases_are_renewed_though_the_queue_cannot_be_looked_at(store: PairStore) -> None:
    store.enqueue([Likely(1, 1, 1.0)])
    store.redis.set(store.keys.aside(0), b"noise")
    seen, computes = set[float](), threading.Event()

    def is_renewed() -> bool:
        leases: Any = store.redis.zrange(store.keys.leases(0), 0, -1, withscores=True)
        seen.update(ends for _, ends in leases)
        return len(seen) == 3

    formula = Formula(before=lambda _: computes.wait(SECONDS))
    with in_thread(worker_of(store, formula, replace(QUICK, lease_seconds=3.0))) as worker:
        until(is_renewed, seconds=SECONDS)
        computes.set()
    assert (len(kept(store, 1)), worker.statistics.total("taken_over")) == (1, 0)


@pytest.mark.parametrize("name", ["most_pairs", "lease_seconds", "poll_seconds"])
def test_options_say_what_is_wrong_with_them(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Options(**{name: 0})  # type: ignore[arg-type]
