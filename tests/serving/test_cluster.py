"""The store on a real Redis Cluster: all of a user in one slot, so one command reads and one script writes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from serving.compute.queue import Requests, streams_of
from serving.connection import connect, connect_async
from serving.keys import Keys
from serving.record import Entry
from serving.seeds import Seeded, Seeding, entries_of, seed, seed_features
from serving.served import Served
from serving.store import AsyncStore, Request, Store, Write
from tests.serving.client.clients import DEMO, FEATURES, KINDS, Kind, client_of
from tests.serving.servers import Server, redis_cluster

NOW_MS = int(1000 * time.time())
MODELS = tuple("abcdefgh")
KEYS = Keys(16)
SEEDING = Seeding(model="a", ttl_seconds=60.0, future_seconds=60.0)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def store(nodes: list[Server]) -> Iterator[Store]:
    client = connect(cluster_url(nodes), timeout_seconds=5)
    for server in nodes:
        with server.client() as node:
            node.flushall()
            node.script_flush()
    yield Store(client, KEYS)
    client.close()


def cluster_url(nodes: list[Server]) -> str:
    return nodes[0].url.replace("redis://", "redis+cluster://")


def entry(version: int, value: float = 1.0) -> Entry:
    return Entry(version=version, feature_ms=NOW_MS + version, vectors=np.full((2, 4), value, np.float16))


def write_of(user: int, version: int = 1) -> Write:
    return Write(user=user, entries={model: (entry(version), 60.0) for model in MODELS}, future_seconds=60)


def request(user: int) -> Request:
    return Request(source="s", user=user, feature_ms=10, payload=b"x", ttl_seconds=60, longest=9, future_seconds=60)


def seeded(store: Store, users: Any) -> Seeded:
    vectors = np.broadcast_to((users % 100).astype(np.float32)[:, None, None], (len(users), 2, 4))
    versions, times = np.ones(len(users), np.int32), np.full(len(users), NOW_MS)
    return seed(store, users, entries_of(vectors, versions=versions, feature_ms=times), how=SEEDING)


def calls_on(nodes: list[Server]) -> Counter[str]:
    found: Counter[str] = Counter()
    for server in nodes:
        with server.client() as node:
            of: Any = node.info("commandstats")
            found.update({name.removeprefix("cmdstat_"): one["calls"] for name, one in of.items()})
    return found


def test_many_models_of_a_user_are_one_command_on_one_node(store: Store, nodes: list[Server]) -> None:
    store.write([write_of(user) for user in range(50)])
    before = calls_on(nodes)
    for user in range(50):
        assert all(record is not None for record in store.read(user, MODELS))
    asked = calls_on(nodes) - before
    connecting = ("info", "hello", "client")
    assert {name: calls for name, calls in asked.items() if name not in connecting} == {"mget": 50}


def test_scripts_reach_the_nodes_of_their_users(store: Store, nodes: list[Server]) -> None:
    users = range(-20, 20)
    assert store.write([write_of(user) for user in users]) == [dict.fromkeys(MODELS, 1)] * 40
    for server in nodes:
        with server.client() as node:
            assert node.dbsize(), "users are spread over the nodes"
            node.script_flush()
    assert store.write([write_of(user, 2) for user in users]) == [dict.fromkeys(MODELS, 1)] * 40
    assert store.enqueue([request(user) for user in (1, 2, 3, 1)]) == [1, 1, 1, 0]
    waiting: Any = [store.redis.xlen(store.keys.requests("s", partition)) for partition in range(16)]
    assert sum(waiting) == 3


def test_loading_reaches_every_node(store: Store, nodes: list[Server]) -> None:
    users = np.arange(1_000, dtype=np.int64)
    assert seeded(store, users) == Seeded(written=1_000)
    payloads = [bytes([user % 256]) for user in users]
    assert seed_features(store, "s", users, users, payloads, ttl_seconds=60, future_seconds=60) == 1_000
    for user in (0, 1, 500, 999):
        (record,) = store.read(user, ("a",))
        assert record is not None
        assert (record.entries["vectors"] == user % 100).all()
        assert store.redis.get(store.keys.features("s", user)) == user.to_bytes(8, "little") + payloads[user]


def test_the_asyncio_store(store: Store, nodes: list[Server]) -> None:
    store.write([write_of(7)])
    served = Served(model="a", source="s", version=1, ds="2026-01-01", num_embeddings=2, dim=4)
    store.announce(served)

    async def ask() -> None:
        client = connect_async(cluster_url(nodes), timeout_seconds=5)
        other = AsyncStore(client, KEYS)
        await other.require_layout()
        assert [record is not None for record in await other.read(7, ("a", "z"))] == [True, False]
        assert await other.enqueue([request(user) for user in (7, 8, 9, 7)]) == [1, 1, 1, 0]
        assert await other.served() == {"a": served}
        await client.aclose()

    asyncio.run(ask())


def test_the_layout_belongs_to_the_store(store: Store) -> None:
    store.require_layout()
    with pytest.raises(ValueError, match="written with 16 partitions, this client has 8"):
        Store(store.redis, Keys(8)).require_layout()


def test_a_client_that_knows_no_cluster_is_told_so(nodes: list[Server]) -> None:
    with nodes[0].client() as node:
        elsewhere = next(user for user in range(100) if KEYS.partition(user) == 0)  # slot of {0}: 13907, the last node
        with pytest.raises(redis.exceptions.MovedError):
            Store(node, KEYS).read(elsewhere, MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_clients_ask_each_node_for_its_own(nodes: list[Server], store: Store, kind: Kind) -> None:
    """One connection per node; what is served is heard from the one that has it."""
    model = replace(DEMO, name="a")
    store.announce(Served(model="a", source="s", version=1, ds="2026-01-03", num_embeddings=2, dim=4))
    store.write([write_of(user) for user in range(0, 60, 2)])
    with client_of(kind, cluster_url(nodes), model, partitions=KEYS.partitions) as client:
        for user in range(60):
            answer = client.get(user, features=FEATURES)["a"]
            assert (answer.origin, answer.versions) == (("default", ()) if user % 2 else ("store", (1,)))
            assert answer.served_version == 1
        assert client.flush()
        assert client.statistics()["models"]["a"]["computations"] == {"queued": 60}


def test_a_worker_takes_requests_of_all_nodes(store: Store) -> None:
    store.require_layout()
    streams = streams_of(["s"], range(KEYS.partitions), KEYS)
    one, two = (Requests(store.redis, KEYS, streams, consumer=name) for name in ("one", "two"))
    one.open()
    assert one.read({"s"}, count=100, block_ms=20) == []
    assert store.enqueue([request(user) for user in range(40)]) == [1] * 40
    assert one.waiting()["s"].length == 40
    taken = one.read({"s"}, count=1_000)
    assert sorted(entry.user for entry in taken) == [*range(40)]
    assert None not in one.take(taken)
    assert one.done(taken[:30]) == 30
    claimed, _ = two.claim({"s"}, idle_ms=0, most=5, count=100, mine=())
    assert {entry.key for entry in claimed} == {entry.key for entry in taken[30:]}
    assert two.done(claimed) == 10
    assert two.waiting()["s"].length == 0
    for requests in (one, two):
        requests.leave()
