"""What both clients do with a store that is stopped, killed, slow or restarted empty (`Redis down or slow`)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client.asynchronous import AsyncEmbeddingClient
from serving.store import Store
from tests.serving.client.clients import DEMO, FEATURES, Client, Kind, client_of, with_policy, write
from tests.serving.client.conftest import SERVED
from tests.serving.client.proxies import slow_network
from tests.serving.client.test_clients import eventually
from tests.serving.servers import Server, free_port, redis_server

DEADLINE_SECONDS = 0.05
MODEL = with_policy(deadline_ms=1000 * DEADLINE_SECONDS)
SLACK_SECONDS = 0.8
"""That a shared machine may take to run a thread."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server to be mistreated."""
    with redis_server(tmp_path) as running:
        yield running


def filled(server: Server) -> None:
    """User 7 has an entry."""
    with server.client() as redis:
        store = Store(redis)
        store.announce(SERVED)
        write(store, 7, 3)


def seconds_of(client: Client, *, times: int = 1) -> float:
    """The slowest get; every one is answered by the default."""
    slowest = 0.0
    for _ in range(times):
        started = time.monotonic()
        answer = client.get(7, features=FEATURES)["demo"]
        slowest = max(slowest, time.monotonic() - started)
        assert (answer.is_default, answer.vectors.shape) == (True, (2, 4))
        assert answer.reason in ("late", "unavailable")
    return slowest


def test_a_stopped_store(kind: Kind, own: Server) -> None:
    filled(own)
    with client_of(kind, own.url, MODEL, failures=3, pause_seconds=0.2) as client:
        eventually(lambda: client.get(7)["demo"].origin == "store")
        own.process.send_signal(signal.SIGSTOP)
        assert DEADLINE_SECONDS * 0.9 < seconds_of(client, times=3) < DEADLINE_SECONDS + SLACK_SECONDS
        started = time.monotonic()
        seconds_of(client, times=10)
        assert time.monotonic() - started < 5 * DEADLINE_SECONDS + SLACK_SECONDS  # the breaker is open: nobody waits
        found = client.statistics()
        assert (found["breaker_open"], found["breaker_opened"]) == (True, 1)
        assert found["events"]["reads_late"] >= 3
        assert found["events"]["reads_not_tried"] >= 8
        own.process.send_signal(signal.SIGCONT)
        eventually(lambda: client.get(7)["demo"].origin == "store")
        assert not client.statistics()["breaker_open"]
        assert client.flush()
        with own.client() as redis:
            assert redis.xlen("um:{0}:requests:s") == 1  # what was asked for meanwhile is computed


def test_a_killed_store_that_comes_back_empty(kind: Kind, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port=port) as server:
        filled(server)
        with client_of(kind, server.url, MODEL, failures=3, pause_seconds=0.05) as client:
            eventually(lambda: client.get(7, features=FEATURES)["demo"].origin == "store")
            assert client.flush()
            server.process.kill()
            server.process.wait()
            assert seconds_of(client, times=6) < DEADLINE_SECONDS + SLACK_SECONDS
            assert client.statistics()["events"]["reads_broken"] >= 3
            with redis_server(tmp_path, port=port) as again, again.client() as redis:
                eventually(lambda: client.get(7)["demo"].reason == "cold")
                assert client.flush()
                # The script was lost with the store; what waited was asked for all the same.
                assert redis.xlen("um:{0}:requests:s") == 1
                filled(again)
                eventually(lambda: client.get(7)["demo"].origin == "store")


def test_a_breaker_closes_although_nobody_reads(kind: Kind, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port=port) as server:
        filled(server)
        with client_of(kind, server.url, MODEL) as client:
            server.process.kill()
            server.process.wait()
            seconds_of(client, times=5)
            assert client.statistics()["breaker_open"]
            with redis_server(tmp_path, port=port):
                eventually(lambda: not client.statistics()["breaker_open"])


def test_a_store_that_is_not_there_yet(kind: Kind, tmp_path: Path) -> None:
    port = free_port()
    with client_of(kind, f"redis://127.0.0.1:{port}", MODEL, pause_seconds=0.05) as client:
        assert client.get(7)["demo"].reason == "unavailable"
        with redis_server(tmp_path, port=port) as server:
            filled(server)
            eventually(lambda: client.get(7)["demo"].origin == "store")


@pytest.mark.parametrize(
    ("seconds", "bytes_at_once"),
    [pytest.param(1.0, 65_536, id="late"), pytest.param(0.02, 4, id="dripping")],
)
def test_a_late_answer_is_nobody_elses(
    kind: Kind, server: Server, store: Store, seconds: float, bytes_at_once: int
) -> None:
    """However late the answers are: what a caller gets is its own user's, or the default within the deadline."""
    for user in range(1, 6):
        write(store, user, 3, value=user)
    with slow_network(server.url) as network, client_of(kind, network.url, MODEL, failures=1000) as client:
        assert client.get(1)["demo"].vectors[0, 0] == 1
        late = 0
        for round_ in range(4):
            network.seconds, network.bytes_at_once = (seconds, bytes_at_once) if round_ % 2 == 0 else (0.0, 65_536)
            for user in range(1, 6):
                started = time.monotonic()
                answer = client.get(user)["demo"]
                assert time.monotonic() - started < DEADLINE_SECONDS + SLACK_SECONDS
                assert answer.vectors[0, 0] == (0 if answer.is_default else user)
                late += answer.reason == "late"
        assert late >= 8
        eventually(lambda: client.get(2)["demo"].vectors[0, 0] == 2)


def test_a_wrong_password_is_no_crash(kind: Kind, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as server,
        server.client() as redis,
    ):
        redis.config_set("requirepass", "right")
        with client_of(kind, server.url.replace("//", "//:wrong@"), DEMO) as client:
            assert client.get(7)["demo"].reason == "unavailable"
        with client_of(kind, server.url.replace("//", "//:right@"), DEMO) as client:
            assert client.get(7)["demo"].reason == "cold"


def test_a_value_that_is_no_record(kind: Kind, server: Server, store: Store) -> None:
    store.redis.set(store.keys.record("demo", 7), b"\x00nonsense")
    store.redis.lpush(store.keys.record("demo", 8), b"a list")
    with client_of(kind, server.url, DEMO) as client:
        assert client.get(7)["demo"].reason == "damaged"
        assert client.get(8)["demo"].reason == "cold"  # MGET passes over what is no string


def test_who_stops_waiting_takes_no_answer_from_others(server: Server, store: Store) -> None:
    """In an event loop, reads share a connection: a cancelled one leaves its answer to nobody."""
    for user in range(1, 6):
        write(store, user, 3, value=user)

    async def ask() -> list[float]:
        async with AsyncEmbeddingClient(network.url, [DEMO]) as client:
            network.seconds = 0.05
            reads = [asyncio.create_task(client.get(user)) for user in range(1, 6)]
            await asyncio.sleep(0.01)
            for read in reads[:3]:
                read.cancel()
            found = await asyncio.gather(*reads[3:], client.get(1))
            return [float(answers["demo"].vectors[0, 0]) for answers in found]

    with slow_network(server.url) as network:
        assert asyncio.run(ask()) == [4, 5, 1]
