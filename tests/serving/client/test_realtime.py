"""A request that waits for its own inference, for the window at most. A thread of the test answers as workers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from serving.client.realtime import DONE
from serving.keys import GROUP
from serving.store import Store
from tests.serving.client.clients import DEMO, FEATURES, Kind, client_of, with_policy, write
from tests.serving.servers import Server

WINDOW_SECONDS = 0.15
MODEL = with_policy(mode="realtime", window_ms=1000 * WINDOW_SECONDS, direct_seconds=86_400, deadline_ms=1000)
PATIENT = with_policy(mode="realtime", window_ms=5_000, direct_seconds=86_400, deadline_ms=5_000)
SLACK_SECONDS = 0.8


@contextmanager
def worker(server: Server, *, version: int = 4, seconds: float = 0.0, says: bytes = DONE) -> Iterator[None]:
    """Takes each request, writes an entry after `seconds` (unless it says that it failed), and answers."""
    ends = threading.Event()

    def work() -> None:
        with server.client() as client:
            store = Store(client)
            stream = store.keys.requests("s", 0)
            client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            while not ends.is_set():
                for _, entries in client.xreadgroup(GROUP, "w", {stream: ">"}, block=20):  # type: ignore[union-attr]
                    for _, fields in entries:
                        time.sleep(seconds)
                        if says == DONE:
                            write(store, int(fields[b"u"]), version)
                        if b"r" in fields:
                            client.rpush(fields[b"r"], says)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_in_time(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 2)
    with client_of(kind, server.url, PATIENT) as client, worker(server):
        first = client.get(7, features=FEATURES)["demo"]
        cold = client.get(8, features=FEATURES)["demo"]
        assert [(one.origin, one.computation, one.versions) for one in (first, cold)] == [
            ("realtime", "computed", (4, 2)), ("realtime", "computed", (4,))
        ]  # fmt: skip
        counts = client.statistics()["models"]["demo"]
        assert (counts["computations"], counts["fallbacks"], counts["failovers"]) == ({"computed": 2}, 0, 0)


@pytest.mark.parametrize(
    ("seconds", "says", "computation"),
    [pytest.param(0.5, DONE, "late", id="late"), pytest.param(0.0, b"0", "failed", id="failed")],
)
def test_a_fallback(kind: Kind, server: Server, store: Store, seconds: float, says: bytes, computation: str) -> None:
    """To the earlier embeddings, to the default where there are none; counted."""
    write(store, 7, 3)
    with client_of(kind, server.url, replace(MODEL, serving=replace(MODEL.serving, direct_seconds=0))) as client:
        with worker(server, seconds=seconds, says=says):
            started = time.monotonic()
            answers = [client.get(user, features=FEATURES)["demo"] for user in (7, 8)]
            assert time.monotonic() - started < 2 * WINDOW_SECONDS + SLACK_SECONDS
        assert [(one.origin, one.computation, one.versions) for one in answers] == [
            ("failover", computation, (3,)), ("default", computation, ())
        ]  # fmt: skip
        counts = client.statistics()["models"]["demo"]
        assert (counts["fallbacks"], counts["failovers"], counts["defaults"]) == (2, 1, {"cold": 1})


def test_what_is_refused_is_not_waited_for(kind: Kind, server: Server, store: Store) -> None:
    slow = replace(MODEL, serving=replace(MODEL.serving, window_ms=5_000, max_inferences_per_second=1))
    with client_of(kind, server.url, slow, longest_stream=2) as client:
        started = time.monotonic()
        assert client.get(7)["demo"].computation == "no_features"
        store.redis.xadd(store.keys.requests("s", 0), {"u": 1})
        store.redis.set(store.keys.rate("s", 0), int(1e6 * (time.time() + 60)))
        assert client.get(7, features=FEATURES)["demo"].computation == "rate_limited"
        store.redis.xadd(store.keys.requests("s", 0), {"u": 1})
        assert client.get(7, features=FEATURES)["demo"].computation == "shed"
        assert time.monotonic() - started < 2
        assert client.statistics()["models"]["demo"]["fallbacks"] == 3


def test_a_direct_hit_waits_for_nothing(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 3)
    with client_of(kind, server.url, PATIENT) as client:
        answer = client.get(7, features=FEATURES)["demo"]
        assert (answer.origin, answer.computation) == ("direct", "skipped")
        assert not store.redis.exists(store.keys.requests("s", 0))


def test_a_waiting_user_is_queued_again_for_who_waits(kind: Kind, server: Server, store: Store) -> None:
    """An asynchronous request is coalesced with what waits; a real-time one needs an answer of its own."""
    with client_of(kind, server.url, PATIENT) as client, client_of("sync", server.url, DEMO) as other:
        other.get(7, features=FEATURES)
        assert other.flush()
        with worker(server):
            assert client.get(7, features=FEATURES)["demo"].computation == "computed"


def test_models_of_several_sources_do_not_wait_together(kind: Kind, server: Server, store: Store) -> None:
    elsewhere = replace(DEMO, name="elsewhere", source="t")
    with (
        client_of(kind, server.url, MODEL, elsewhere) as client,
        pytest.raises(ValueError, match="ask for one source's"),
    ):
        client.get(7)


def test_a_stopped_store_ends_the_wait(kind: Kind, server: Server, store: Store) -> None:
    write(store, 7, 2)
    with client_of(kind, server.url, MODEL) as client:
        assert client.get(7, features=FEATURES)["demo"].origin == "failover"
        with server.client() as other:
            threading.Timer(0.05, other.client_pause, (400,)).start()
            started = time.monotonic()
            answer = client.get(7, features=FEATURES)["demo"]
            assert time.monotonic() - started < WINDOW_SECONDS + SLACK_SECONDS
            assert (answer.origin, answer.computation) == ("failover", "late")
            time.sleep(0.5)
