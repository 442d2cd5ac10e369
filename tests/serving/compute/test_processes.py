"""Workers as processes: killed, frozen and ended by signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from serving.compute.champions import Load
from serving.compute.service import serve
from serving.compute.worker import Options
from serving.keys import ONE_SERVER
from serving.store import Store
from tests.forked import FORK_SERVER
from tests.serving.compute.test_worker import consumers
from tests.serving.compute.world import (
    NOW_MS,
    QUICK,
    Watched,
    World,
    request,
    stored,
    stream_length,
    wait_until,
    working,
)
from tests.serving.servers import Server

USERS = range(64)


def slow(folder: Path, manifest_sha256: str) -> Watched:
    """A tower that takes its time."""
    tower = Watched(folder, manifest_sha256)
    tower.before = lambda users: time.sleep(0.2 if len(users) > 1 else 0)
    return tower


def work(world: World, url: str, load: Load | None, options: Options) -> None:
    serve([world.recipe], settings=world.settings, url=url, keys=ONE_SERVER, options=options, load=load)


@contextmanager
def process(
    world: World, server: Server, *, load: Load | None = None, options: Options = QUICK
) -> Iterator[BaseProcess]:
    started: Any = FORK_SERVER.Process(target=work, args=(world, server.url, load, options))
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()


def pending(store: Store) -> int:
    """Entries that a worker was given and has not done."""
    found: Any = store.redis.xpending(store.keys.requests("tiny", 0), "compute")
    return int(found["pending"])


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_batch(world: World, server: Server, store: Store) -> None:
    options = Options(latency_ms=0, most_users=16)
    with process(world, server, load=slow, options=options) as killed:
        store.enqueue([request(user) for user in USERS])
        wait_until(lambda: any(stored(store, USERS)), seconds=60)
        wait_until(lambda: pending(store) > 0)
        killed.kill()
        killed.join()
    left = [not one for one in stored(store, USERS)]
    assert 0 < sum(left) < len(USERS)
    with working(world, store) as worker:
        wait_until(lambda: stream_length(store) == 0)
    assert stored(store, USERS) == [[(1, NOW_MS)]] * len(USERS)  # once each
    assert worker.statistics.total("claimed") > 0


@pytest.mark.slow
def test_a_frozen_worker_goes_on_and_a_drained_one_leaves_nothing(world: World, server: Server, store: Store) -> None:
    with process(world, server) as worker:
        assert worker.pid is not None
        store.enqueue([request(1)])
        wait_until(lambda: stream_length(store) == 0, seconds=60)
        os.kill(worker.pid, signal.SIGSTOP)
        assert store.enqueue([request(1, feature_ms=NOW_MS + 1), request(1, feature_ms=NOW_MS + 2)]) == [1, 0]
        assert stored(store, [1]) == [[(1, NOW_MS)]]  # what was computed before is read
        os.kill(worker.pid, signal.SIGCONT)
        wait_until(lambda: stored(store, [1]) == [[(1, NOW_MS + 2), (1, NOW_MS)]])
        store.enqueue([request(user) for user in range(2, 400)])
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(20)
        assert worker.exitcode == 0
    assert pending(store) == 0
    assert consumers(store) == []
    done = [bool(one) for one in stored(store, range(2, 400))]
    assert done.count(False) == stream_length(store)
