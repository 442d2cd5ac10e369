"""Pairs on a real Redis Cluster, and what a reader needs to be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from infra.settings import REPOSITORY, child_environment
from serving.connection import connect
from serving.solaris.interfaces import Likely
from serving.solaris.levels import Level
from serving.solaris.reader import PairReader
from serving.solaris.store import PairStore, announced
from serving.solaris.view import view_pairs
from tests.serving.servers import Server, in_thread, redis_cluster, until
from tests.serving.solaris.test_reader import QUICK
from tests.serving.solaris.world import (
    MODEL,
    SIXTEEN,
    Formula,
    give_features,
    kept,
    queue_of,
    vector,
    worker_of,
    write,
)

USERS = range(-20, 20)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def url(nodes: list[Server]) -> str:
    return nodes[0].url.replace("redis://", "redis+cluster://")


@pytest.fixture
def store(nodes: list[Server], url: str) -> Iterator[PairStore]:
    for server in nodes:
        with server.client() as node:
            node.flushall()
            node.script_flush()
            node.config_resetstat()
    client = connect(url, timeout_seconds=5)
    yield PairStore(client, MODEL, SIXTEEN)
    client.close()


def reads(nodes: list[Server]) -> int:
    found = 0
    for server in nodes:
        with server.client() as node:
            of: Any = node.info("commandstats")
            found += of.get("cmdstat_mget", {"calls": 0})["calls"]
    return found


def test_misses_on_every_node_are_computed_and_read_with_one_command(
    nodes: list[Server], url: str, store: PairStore
) -> None:
    give_features(store, USERS)
    options = replace(QUICK, partitions=16, log_share=1.0)
    with PairReader(url, MODEL, options) as reader:
        for user in USERS:
            assert reader.read(user, [1, 2]).levels.tolist() == [Level.ZERO] * 2
        assert reader.flush()
        assert queue_of(store).length() == (2 * len(USERS), 0, 0)
        with in_thread(worker_of(store, Formula())) as worker:
            until(lambda: worker.statistics.total("done") == 2 * len(USERS), seconds=20)
        before = reads(nodes)
        for user in USERS:
            answer = reader.read(user, [2, 1])
            assert answer.levels.tolist() == [Level.EXACT] * 2
            assert answer.vectors.tolist() == [vector(user, 2), vector(user, 1)]
        assert reads(nodes) - before == len(USERS)
        reader.read(1_000, [2])
        assert reader.flush()
        assert reader.read(1_000, [2]).levels.tolist() == [Level.NEIGHBOURS]
        assert reader.flush()
    logged: list[Any] = [store.redis.xlen(store.keys.log(partition)) for partition in range(16)]
    assert sum(logged) == 2 * len(USERS) + 2


def test_writes_find_the_nodes_of_users_and_items(nodes: list[Server], store: PairStore) -> None:
    for user in USERS:
        write(store, user, *range(30))
    for server in nodes:
        with server.client() as node:
            assert node.dbsize(), "users are spread over the nodes"
            node.script_flush()
    assert all(write(store, user, 1) == (1, 0) for user in USERS)
    assert all(len(kept(store, user)) == 30 for user in USERS)
    give_features(store, USERS)
    assert store.enqueue(Likely(user, 5, 1.0) for user in USERS) == {"queued": len(USERS)}


def test_how_pairs_are_kept_is_told_and_shown(store: PairStore) -> None:
    store.announce()
    assert announced(store.redis) == {"fm": MODEL}
    write(store, 7, 3, priority=0.5, version=4)
    shown = view_pairs(store, 7)
    assert [(one.item, one.version, one.priority, one.alive) for one in shown.pairs] == [(3, 4, 0.5, True)]
    assert 0 <= shown.pairs[0].age_seconds < 20, "both times are the store's"
    store.redis.set(store.keys.user(8), b"noise")
    assert (view_pairs(store, 8).pairs, view_pairs(store, 8).damage) == ((), "a record of 5 bytes; it has 6 or more")


def test_the_read_path_imports_nothing_heavy() -> None:
    code = """
import sys
import serving.solaris.reader
print(sorted(name for name in ("torch", "torchrec", "mlflow", "deltalake") if name in sys.modules))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=child_environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == "[]"
