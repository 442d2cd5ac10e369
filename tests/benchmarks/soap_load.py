"""Open-loop load on the asynchronous path at rising rates: client enqueue, worker, store, and reads beside it.

Arrivals are drawn before a run (Poisson) and are not moved by how the system does: a request that is sent late, because
everything before it was slow, counts from when it should have been sent. A worker process computes, Redis is a process
of its own, another one reads one user every few milliseconds, on a schedule too. After each rate the stream is drained
and every accepted request is looked up: the store must hold vectors of its features or of newer ones of that user.

`written_ms`: from the arrival to the write, by the store's clock. `read_ms`: from when a read should have begun to its
answer. `*_us_cpu`: of one core per computed user, of the worker, of Redis and of this client. The limit is what the
same worker drains when all requests wait before it starts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import redis

from infra.settings import REPOSITORY, child_environment
from serving.record import Record
from serving.store import Store
from tests.benchmarks.common.process import cpu_seconds
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.benchmarks.common.serving import FEATURE_MS, Served
from tests.serving.servers import redis_server
from trainer.recipes import get_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOAL = 0.8
SHARES = (0.2, 0.4, 0.6, 0.8, 1.2)
"""Of the capacity: the rates."""
SECONDS, QUICK_SECONDS = 5.0, 0.5
USERS, QUICK_USERS = 20_480, 2_048
WAITING_SECONDS = 0.5
"""What the stream may hold, in seconds of the capacity; more is shed."""
READS_PER_SECOND = 200
_LARGEST_SEND = 64
"""As the client library sends them."""
_READY_SECONDS = 120.0
_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Load:
    """What was sent. arrivals: planned, in seconds since the epoch; places: of the users; answers: of the store."""

    arrivals: NDArray[np.float64]
    places: NDArray[np.int64]
    answers: NDArray[np.int64]
    client_cpu: float

    @property
    def feature_ms(self) -> NDArray[np.int64]:
        """Of each request: when it arrived."""
        return (1000 * self.arrivals).astype(np.int64)


def arrivals_of(rate: float, seconds: float, *, seed: int) -> NDArray[np.float64]:
    """Seconds after the start, Poisson."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(1.2 * rate * seconds) + 10)
    times = np.cumsum(gaps)
    return times[times < seconds]


def send(store: Store, served: Served, *, rate: float, seconds: float, longest: int, seed: int) -> Load:
    """Every request when it is due, or as soon as possible after."""
    offsets = arrivals_of(rate, seconds, seed=seed)
    places = np.random.default_rng(seed).integers(0, len(served.users), len(offsets))
    start = time.time() + 0.2
    arrivals = start + offsets
    requests = [
        served.request(int(place), feature_ms=int(1000 * arrival), longest=longest)
        for place, arrival in zip(places, arrivals, strict=True)
    ]
    answers: list[int] = []
    began = time.process_time()
    while len(answers) < len(requests):
        first = len(answers)
        due = int(np.searchsorted(arrivals, time.time(), side="right"))
        if due == first:
            time.sleep(max(arrivals[first] - time.time(), 0))
            continue
        answers += store.enqueue(requests[first : min(due, first + _LARGEST_SEND)])
    return Load(arrivals=arrivals, places=places, answers=np.array(answers), client_cpu=time.process_time() - began)


def written_ms(store: Store, served: Served, load: Load) -> tuple[NDArray[np.float64], int]:
    """From arrival to write of every accepted request; and how many have no vectors: lost."""
    model, took, lost = served.recipe.name, [], 0
    accepted = np.flatnonzero(load.answers >= 0)
    users = [served.users[place] for place in load.places[accepted]]
    kept: dict[int, Any] = {}
    for begin in range(0, len(users), _AT_ONCE):
        some = list(set(users[begin : begin + _AT_ONCE]))
        values: Any = store.redis.mget(store.keys.records_of(model, some, 0))
        kept |= {user: value and Record.parse(value).entries for user, value in zip(some, values, strict=True)}
    for at, user in zip(accepted, users, strict=True):
        entries = kept[user]
        newer = [] if entries is None else entries["write_ms"][entries["feature_ms"] >= load.feature_ms[at]]
        if not len(newer):
            lost += 1
            continue
        took.append(float(newer.min()) - 1000 * load.arrivals[at])
    return np.array(took), lost


@contextmanager
def worker_process(url: str, served: Served) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the compute center, ready."""
    ref = served.champion.reference
    command = [sys.executable, "-m", "tests.benchmarks.common.serving", url, served.recipe.name, str(ref.path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=child_environment(OMP_NUM_THREADS="1"))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "the worker did not drain"


@contextmanager
def reading(url: str, served: Served, seconds: float) -> Iterator[list[float]]:
    """Milliseconds of reads during the block, which takes `seconds`."""
    found: list[float] = []
    command = [sys.executable, "-m", "tests.benchmarks.common.reads", url, served.recipe.name, str(seconds)]
    with subprocess.Popen(
        [*command, str(READS_PER_SECOND)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        users = np.random.default_rng(0).choice(served.users, 1_000).tolist()
        assert process.stdin is not None
        process.stdin.write(json.dumps(users).encode())
        process.stdin.close()
        yield found
        assert process.stdout is not None
        found += json.loads(process.stdout.read())


def wait_until_drained(store: Store, served: Served) -> float:
    """When the stream was seen empty, in seconds since the epoch."""
    stream = store.keys.requests(served.source, 0)
    deadline = time.monotonic() + _READY_SECONDS
    while store.redis.xlen(stream):
        assert time.monotonic() < deadline, "the worker does not drain the stream"
        time.sleep(0.005)
    return time.time()


def capacity_of(store: Store, served: Served, worker: subprocess.Popen[bytes], *, turn: int) -> float:
    """Users/s of the worker when all wait before it begins: it is stopped while they are queued."""
    worker.send_signal(signal.SIGSTOP)
    served.enqueue_all(store, feature_ms=FEATURE_MS + 1 + turn)  # newer than any: merged as the load is
    began = time.time()
    worker.send_signal(signal.SIGCONT)
    return len(served.users) / (wait_until_drained(store, served) - began)


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Of milliseconds."""
    if not len(values):
        return {"p50": float("nan"), "p99": float("nan")}
    return {name: round(float(np.percentile(values, at)), 2) for name, at in (("p50", 50), ("p99", 99))}


def at_rate(
    store: Store, served: Served, pids: dict[str, int], *, share: float, capacity: float, seconds: float, url: str
) -> dict[str, Any]:
    """One rate: what became of its requests."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    with reading(url, served, seconds) as reads:
        load = send(
            store, served, rate=share * capacity, seconds=seconds, longest=int(WAITING_SECONDS * capacity),
            seed=int(100 * share),
        )  # fmt: skip
        elapsed = wait_until_drained(store, served) - load.arrivals[0]
    took, lost = written_ms(store, served, load)
    counted = {answer: int((load.answers == answer).sum()) for answer in (1, 0, -1)}
    assert sum(counted.values()) == len(load.answers), "every request is queued, coalesced or shed"
    cpu = {name: 1e6 * (cpu_seconds(pid) - before[name]) / max(counted[1], 1) for name, pid in pids.items()}
    return {
        "offered_per_second": round(share * capacity), "share_of_capacity": share, "seconds": round(elapsed, 2),
        "computed_per_second": round(counted[1] / elapsed), "queued": counted[1], "coalesced": counted[0],
        "shed": counted[-1], "lost": lost, "written_ms": percentiles(took), "read_ms": percentiles(reads),
        **{f"{name}_us_cpu": round(value, 1) for name, value in cpu.items()},
        "client_us_cpu": round(1e6 * load.client_cpu / len(load.answers), 1),
    }  # fmt: skip


def main() -> None:
    """A line per rate, and the last."""
    made = parser(__doc__)
    made.add_argument("--recipe", default="demo")
    parsed = made.parse_args()
    options = options_of(parsed)
    quick = options.quick
    shares, seconds = (SHARES[1::3], QUICK_SECONDS) if quick else (SHARES, SECONDS)
    options.home.mkdir(parents=True, exist_ok=True)
    with (
        machine() as found,
        tempfile.TemporaryDirectory(dir=options.home) as name,
        redis_server(Path(name)) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        served = Served(get_recipe(parsed.recipe), QUICK_USERS if quick else USERS, Path(name))
        store = Store(client)
        with worker_process(server.url, served) as worker:
            store.enqueue([served.request(0)])
            wait_until_drained(store, served)
            turns = [capacity_of(store, served, worker, turn=turn) for turn in range(1 + options.runs)]
            capacity = float(np.median(turns[1:]))
            pids = {"worker": worker.pid, "redis": server.process.pid}
            lines = [
                at_rate(store, served, pids, share=share, capacity=capacity, seconds=seconds, url=server.url)
                for share in shares
            ]
    for line in lines:
        show(line)
    best = max(lines, key=lambda line: line["computed_per_second"])
    cores = 1e-6 * (best["worker_us_cpu"] + best["redis_us_cpu"])
    finish(
        "soap_load", options=options, recipe=served.recipe.name, machine=found, capacity_per_second=round(capacity),
        saturation_per_second=best["computed_per_second"], per_core_per_second=round(1 / cores),
        lost=sum(line["lost"] for line in lines), shed=sum(line["shed"] for line in lines), rates=lines,
        goal=GOAL, ratio=best["computed_per_second"] / capacity,
    )  # fmt: skip


if __name__ == "__main__":
    main()
