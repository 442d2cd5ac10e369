"""Pairs (`serving.solaris`): a reader's answer of 20 items against a raw HMGET of the same bytes; precomputing them.

A user has 32 pairs of E = 64 in the store, 16 of the 20 that are asked for among them. A read gets the user's record,
finds the pairs, takes the mean for the rest, says levels, versions and ages, counts, and hands the misses to its
thread, which queues them meanwhile. The raw reference is redis-py's HMGET of 20 fields of a hash that holds the same
bytes, in turns. Client and store have a core each. `precompute`: a worker drains a queue of pairs of a stand-in for a
foundation model, `LAYERS` products of `HIDDEN` x `HIDDEN` a pair in torch; its limit is that forward alone on the same
batches. `ratio` is the median read over the median HMGET; `precompute_ratio` the worker's pairs per second over the
bare forward's, by CPU time in `precompute_ratio_cpu`.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.schema import DenseFeature, Schema, SparseFeature, Table
from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.solaris.interfaces import Likely
from serving.solaris.model import PairModel
from serving.solaris.precompute import Precompute
from serving.solaris.queue import PairQueue
from serving.solaris.reader import Options as ReaderOptions
from serving.solaris.reader import PairReader
from serving.solaris.statistics import WORKER
from serving.solaris.store import PairStore, Represented
from serving.solaris.worker import Options, Worker
from snapshots.embedder import one_thread
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.benchmarks.soap_read import USERS, Timed, apart, users_of
from tests.serving.servers import redis_server

GOAL = 1.5
WIDTH, HIDDEN, LAYERS = 64, 256, 8
PAIRS, ASKED, HITS = 32, 20, 16
TURNS = 40
QUICK_TURNS = 2
QUEUED, QUICK_QUEUED = 16_384, 1_024
ITEMS_PER_USER = 8
MODEL = PairModel(name="bench", source="s", width=WIDTH, deadline_ms=1_000.0)
SCHEMA = Schema(
    tables=(Table(name="items", num_rows=100),),
    sparse=(SparseFeature(name="clicked", table="items", side="user"),),
    dense=tuple(DenseFeature(name=f"dense_{number}", side="user") for number in range(8)),
    tasks=("click",),
)
CODEC = FeatureCodec(SCHEMA)


class Stack:
    """A stand-in: what it costs is all that counts."""

    width, version = WIDTH, 1

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._layers = [torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5 for _ in range(LAYERS)]

    def represent(self, user_rows: pa.RecordBatch, item_rows: pa.RecordBatch) -> NDArray[np.float32]:
        with torch.inference_mode():
            ids = torch.from_numpy(item_rows.column("item_id").to_numpy().copy()).float()
            hidden = (ids / 1e3)[:, None].expand(-1, HIDDEN)
            for layer in self._layers:
                hidden = torch.relu(hidden @ layer)
            found: NDArray[np.float32] = hidden[:, :WIDTH].numpy()
        return found


class Everything:
    """A catalogue that knows every item."""

    def known(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(items), np.bool_)

    def rows(self, items: NDArray[np.int64]) -> pa.RecordBatch:
        return pa.record_batch({"item_id": pa.array(items, pa.int64())})


def give_features(store: PairStore, users: range) -> None:
    """Of now."""
    value = int(1000 * time.time()).to_bytes(8, "little") + CODEC.encode({"clicked": list(range(12)), "dense_0": 0.5})
    store.redis.mset({store.keys.keys.features(MODEL.source, user): value for user in users})


def fill(store: PairStore) -> None:
    """Every user's pairs, and hashes of the same bytes."""
    drawn = np.random.default_rng(0)
    now_ms = int(1000 * time.time())
    give_features(store, range(USERS))
    for user in range(USERS):
        vectors = drawn.standard_normal((PAIRS, WIDTH), dtype=np.float32).astype(np.float16)
        pairs = [Likely(user, item, 1.0) for item in range(PAIRS)]
        given = Represented.of(pairs, vectors, version=1, feature_ms=np.full(PAIRS, now_ms))
        store.write(given)
        entries = {str(item): given.entries[item].tobytes() for item in range(PAIRS)}
        store.redis.hset(f"raw:{user}", mapping=entries)  # type: ignore[arg-type]


def reads(url: str, store: PairStore, *, turns: int) -> dict[str, Timed]:
    """In turns; the first of each warms up."""
    items = np.arange(PAIRS - HITS, PAIRS - HITS + ASKED)
    fields = [str(item) for item in range(ASKED)]
    timed, drawn = {name: Timed() for name in ("raw_hmget", "read", "read_hits")}, np.random.default_rng(1)
    with PairReader(url, MODEL, ReaderOptions(buffer=10**6)) as reader:
        calls: dict[str, Any] = {
            "raw_hmget": lambda user: store.redis.hmget(f"raw:{user}", fields),
            "read": lambda user: reader.read(user, items),
            "read_hits": lambda user: reader.read(user, items[:HITS]),
        }
        for turn in range(turns + 1):
            for name, call in calls.items():
                users, into, cpu = users_of(drawn), timed[name] if turn else Timed(), time.process_time_ns()
                for user in users:
                    started = time.perf_counter_ns()
                    call(user)
                    into.found.append(time.perf_counter_ns() - started)
                reader.flush(timeout_seconds=60)
                into.cpu.append(time.process_time_ns() - cpu)
                store.redis.delete(store.keys.queue(0))
    return timed


def ratio_of(timed: dict[str, Timed], quantile: float) -> float:
    """Of a read to the raw one."""
    return timed["read"].share(quantile) / timed["raw_hmget"].share(quantile)


def bare(number: int) -> tuple[float, float]:
    """Seconds of the forward alone, by the clock and of CPU."""
    stack, size = Stack(), Options().most_pairs
    rows = Everything().rows(np.arange(size))
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(number // size):
        stack.represent(rows, rows)
    return time.perf_counter() - began, time.process_time() - worked


def drained(store: PairStore, number: int) -> tuple[float, float]:
    """Seconds of a worker until everything is in the store."""
    users = range(number // ITEMS_PER_USER)
    give_features(store, users)
    store.enqueue(Likely(user, 100 + item, 1.0 + user) for user in users for item in range(ITEMS_PER_USER))
    counted = Statistics(WORKER)
    precompute = Precompute(Stack(), Everything(), CODEC, counted)
    queue = PairQueue(store.redis, MODEL, store.keys.keys, range(1))
    worker = Worker(queue, store, precompute, options=Options(), statistics=counted)
    thread = threading.Thread(target=worker.run)
    began, worked = time.perf_counter(), time.process_time()
    thread.start()
    while counted.total("done") < number:
        time.sleep(0.001)
    found = time.perf_counter() - began, time.process_time() - worked
    worker.stop()
    thread.join()
    assert counted.total("written") == number
    return found


def main() -> None:
    """A line of reads, then the result."""
    options = options_of(parser(__doc__).parse_args())
    turns = QUICK_TURNS if options.quick else TURNS * options.runs // 5
    queued = QUICK_QUEUED if options.quick else QUEUED
    with (
        machine() as found,
        tempfile.TemporaryDirectory() as folder,
        redis_server(Path(folder)) as server,
        server.client() as client,
        one_thread(),
    ):
        store = PairStore(client, MODEL)
        both = [(bare(queued), drained(store, queued)) for _ in range(1 + options.runs)][1:]
        client.flushall()
        apart(server)
        fill(store)
        timed = reads(server.url, store, turns=turns)
        lines = {name: one.line() for name, one in timed.items()}
        show({"reads": lines})
    finish(
        "solaris", options=options, machine=found, reads=lines, pairs=queued,
        p99_ratio=round(ratio_of(timed, 0.99), 3),
        pairs_per_second=spread([queued / worker[0] for _, worker in both]),
        forward_pairs_per_second=spread([queued / alone[0] for alone, _ in both]),
        worker_us_per_pair_cpu=spread([1e6 * worker[1] / queued for _, worker in both], digits=1),
        precompute_ratio=round(statistics.median(alone[0] / worker[0] for alone, worker in both), 3),
        precompute_ratio_cpu=round(statistics.median(alone[1] / worker[1] for alone, worker in both), 3),
        goal=GOAL, ratio=ratio_of(timed, 0.5),
    )  # fmt: skip


if __name__ == "__main__":
    main()
