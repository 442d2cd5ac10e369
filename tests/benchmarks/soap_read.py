"""Reading a user's embeddings: the client's get against a raw GET of the same bytes, and the HTTP face beside it.

Mode async, three entries of K = 2, D = 96 per model. A get reads, parses, pools, says versions and ages, counts, and
hands the request (with the user's features) to the sender, which runs meanwhile. Client and store have a core each, one
thread asks. Turns: some raw GETs of redis-py, then as many gets of the client, and so on; users are drawn anew for
each. `ratio` is the sync client's median get over the median GET, `p99_ratio` the same of the slowest hundredth; under
`asyncio` the asyncio client's against redis-py's asyncio.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis
import redis.asyncio

from serving.client.asynchronous import AsyncEmbeddingClient
from serving.client.model import Model
from serving.client.sync import EmbeddingClient
from serving.http.limits import Limits
from serving.http.server import server_of, service
from serving.record import Entry
from serving.served import Served
from serving.store import Store, Write
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.serving.servers import Server, free_port, redis_server
from trainer.recipes import get_recipe

GOAL = 1.3
K, DIM = 2, 96
SOURCE = "synthetic"
ONE, ALL = ("m0",), ("m0", "m1", "m2", "m3")
FEATURES = {"user": [17], "device": [2], "hour": [5], "ids_000": [1, 2, 3, 4, 5], "ids_001": [6, 7], "dense_000": 0.5}
USERS, TURNS, PER_TURN = 2_000, 40, 250
QUICK_TURNS = 2


def models() -> list[Model]:
    """Four, of the demo's features and the paper's shape."""
    recipe = get_recipe("demo")
    return [Model(name=name, source=SOURCE, schema=recipe.schema, num_embeddings=K, dim=DIM) for name in ALL]


def fill(store: Store, names: Sequence[str]) -> None:
    """Three entries per model and user."""
    rng = np.random.default_rng(0)
    for model in names:
        store.announce(Served(model=model, source=SOURCE, version=3, ds="2026-01-03", num_embeddings=K, dim=DIM))
    for version in (1, 2, 3):
        for begin in range(0, USERS, 250):
            store.write([
                Write(user=user, future_seconds=60, entries={
                    model: (Entry(version=version, feature_ms=version, vectors=_drawn(rng)), 86_400.0)
                    for model in names
                })
                for user in range(begin, begin + 250)
            ])  # fmt: skip


def _drawn(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.standard_normal((K, DIM), dtype=np.float32).astype(np.float16)


@dataclass
class Timed:
    """Nanoseconds of each call, and of this process's CPU by turn, the client's own threads included."""

    found: list[int] = field(default_factory=list)
    cpu: list[int] = field(default_factory=list)

    def share(self, quantile: float) -> float:
        """Microseconds."""
        return round(float(np.quantile(self.found, quantile)) / 1000, 1)

    def line(self) -> dict[str, float]:
        """What is reported."""
        cpu_us = round(float(np.median(self.cpu)) / PER_TURN / 1000, 1)
        return {"p50_us": self.share(0.5), "p99_us": self.share(0.99), "cpu_us": cpu_us}


Calls = dict[str, Callable[[int], object]]
AsyncCalls = dict[str, Callable[[int], Awaitable[object]]]


def users_of(rng: np.random.Generator) -> list[int]:
    """Of one turn."""
    return [int(user) for user in rng.integers(0, USERS, PER_TURN)]


def forget(store: Store, users: Sequence[int]) -> None:
    """Nobody computes here: what was queued goes, so that the next turn queues again."""
    store.redis.delete(store.keys.requests(SOURCE, 0), *(store.keys.queued(SOURCE, user) for user in users))


def measure(calls: Calls, settle: Callable[[], object], store: Store, *, turns: int) -> dict[str, Timed]:
    """By call, in turns; the first of each warms up. settle: waits until what a turn left behind is done."""
    timed, rng = {name: Timed() for name in calls}, np.random.default_rng(1)
    for number in range(turns + 1):
        for name, call in calls.items():
            users, into, cpu = users_of(rng), timed[name] if number else Timed(), time.process_time_ns()
            for user in users:
                started = time.perf_counter_ns()
                call(user)
                into.found.append(time.perf_counter_ns() - started)
            settle()
            into.cpu.append(time.process_time_ns() - cpu)
            forget(store, users)
    return timed


async def measure_async(
    calls: AsyncCalls, client: AsyncEmbeddingClient, store: Store, *, turns: int
) -> dict[str, Timed]:
    """The same in an event loop."""
    timed, rng = {name: Timed() for name in calls}, np.random.default_rng(1)
    for number in range(turns + 1):
        for name, call in calls.items():
            users, into, cpu = users_of(rng), timed[name] if number else Timed(), time.process_time_ns()
            for user in users:
                started = time.perf_counter_ns()
                await call(user)
                into.found.append(time.perf_counter_ns() - started)
            await client.flush()
            into.cpu.append(time.process_time_ns() - cpu)
            forget(store, users)
    return timed


def threads(url: str, store: Store, *, turns: int) -> dict[str, Timed]:
    """The sync client, and redis-py."""
    record, records = store.keys.record, store.keys.records
    with EmbeddingClient(url, models()) as client, redis.Redis.from_url(url) as raw:
        calls: Calls = {
            "raw_get": lambda user: raw.get(record("m0", user)),
            "get": lambda user: client.get(user, ONE, features=FEATURES),
            "get_known_features": lambda user: client.get(user, ONE),
            "raw_mget_of_4": lambda user: raw.mget(records(ALL, user)),
            "get_of_4": lambda user: client.get(user, ALL, features=FEATURES),
        }
        return measure(calls, client.flush, store, turns=turns)


async def event_loop(url: str, store: Store, *, turns: int) -> dict[str, Timed]:
    """The asyncio client, and redis-py's."""
    record, records = store.keys.record, store.keys.records
    async with AsyncEmbeddingClient(url, models()) as client, redis.asyncio.Redis.from_url(url) as raw:
        calls: AsyncCalls = {
            "raw_get": lambda user: raw.get(record("m0", user)),
            "get": lambda user: client.get(user, ONE, features=FEATURES),
            "get_known_features": lambda user: client.get(user, ONE),
            "raw_mget_of_4": lambda user: raw.mget(records(ALL, user)),
            "get_of_4": lambda user: client.get(user, ALL, features=FEATURES),
        }
        return await measure_async(calls, client, store, turns=turns)


def by_http(url: str, store: Store, *, turns: int) -> dict[str, Timed]:
    """One connection to the service, a process of its own, that stays open."""
    port = free_port()
    served = multiprocessing.get_context("spawn").Process(target=serve, args=(url, port), daemon=True)
    served.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        _wait(connection)

        def get(user: int, accept: str) -> bytes:
            connection.request("GET", f"/v1/users/{user}/embeddings?model=m0", headers={"accept": accept})
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            return answer.read()

        calls: Calls = {
            "json": lambda user: get(user, "application/json"),
            "msgpack": lambda user: get(user, "application/msgpack"),
        }
        return measure(calls, lambda: time.sleep(0.05), store, turns=turns)
    finally:
        served.terminate()
        served.join()


def serve(url: str, port: int) -> None:
    """In a process of its own."""
    app = service(models(), store_url=url, partitions=1, limits=Limits())
    server_of(app, host="127.0.0.1", port=port, limits=Limits()).run()


def _wait(connection: http.client.HTTPConnection) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.connect()
            return
        except OSError:
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.05)


def ratios(timed: dict[str, Timed]) -> dict[str, Any]:
    """Of the client to the store, by quantile; and what they are of."""
    found: dict[str, Any] = {name: times.line() for name, times in timed.items()}
    for quantile, name in ((0.5, "ratio"), (0.99, "p99_ratio")):
        found[name] = round(timed["get"].share(quantile) / timed["raw_get"].share(quantile), 3)
        found[f"{name}_of_4"] = round(timed["get_of_4"].share(quantile) / timed["raw_mget_of_4"].share(quantile), 3)
    return found


def apart(server: Server) -> None:
    """Client and store on a core of their own, as on two machines: on one, whoever rests longer between two calls
    finds the other's work on its core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:1])
        for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[1:2])


def main() -> None:
    """A line per client, then the result."""
    options = options_of(parser(__doc__).parse_args())
    turns = QUICK_TURNS if options.quick else TURNS * options.runs // 5
    with (
        machine() as found,
        tempfile.TemporaryDirectory() as folder,
        redis_server(Path(folder)) as server,
        server.client() as client,
    ):
        apart(server)
        store = Store(client)
        fill(store, ALL)
        threaded = ratios(threads(server.url, store, turns=turns))
        show({"client": "sync", **threaded})
        looped = ratios(asyncio.run(event_loop(server.url, store, turns=turns)))
        show({"client": "asyncio", **looped})
        face = {name: times.line() for name, times in by_http(server.url, store, turns=turns).items()}
        show({"client": "http", **face})
    finish(
        "soap_read", options=options, machine=found, gets=turns * PER_TURN, sync=threaded, asyncio=looped, http=face,
        p99_ratio=threaded["p99_ratio"], goal=GOAL, ratio=threaded["ratio"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
