"""A worker of the compute center, from the stream of requests to vectors in the store, against the bare forward.

Every user of the day waits on the stream, with features in the store; a worker with three threads in this process takes
them, decodes, computes, merges and acknowledges them, until the stream is empty. Redis is a process of its own and
takes its share of the cores. The limit is the exported graph alone on batches of the same size that are encoded and in
memory. `*_cpu` figures are by CPU time: of this process, and of Redis.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from serving.store import Store
from snapshots.embedder import USERS_PER_FORWARD, one_thread
from tests.benchmarks.common.process import cpu_seconds
from tests.benchmarks.common.report import finish, machine, options_of, parser, spread
from tests.benchmarks.common.serving import FEATURE_MS, Served, running, worker_of
from tests.serving.servers import redis_server
from trainer.recipes import get_recipe

GOAL = 0.8
USERS, QUICK_USERS = 40_960, 2_048
_POLL_SECONDS = 0.001

Run = Callable[[Callable[[], None]], None]
"""Is given what to call when it is done."""


class Turn:
    """Seconds by the clock, of this process's CPU time and of Redis', until `run` says that it is done."""

    def __init__(self, pid: int, run: Run) -> None:
        self._pid, self._began = pid, (0.0, 0.0, 0.0)
        self._began = self._since()
        self.wall = self.own = self.redis = 0.0
        run(self._done)

    def _since(self) -> tuple[float, float, float]:
        now = time.perf_counter(), time.process_time(), cpu_seconds(self._pid)
        wall, own, other = (after - before for after, before in zip(now, self._began, strict=True))
        return wall, own, other

    def _done(self) -> None:
        self.wall, self.own, self.redis = self._since()


def bare(served: Served) -> Run:
    """The graph on encoded batches."""
    size = USERS_PER_FORWARD
    parts = [slice(begin, begin + size) for begin in range(0, len(served.users), size)]
    rows = [served.codec.decode(served.users[part], served.payloads[part]) for part in parts]
    inputs = [(served.embedder.encode(one), one.num_rows) for one in rows]

    def run(done: Callable[[], None]) -> None:
        for encoded, number in inputs:
            served.embedder.compute(encoded, num_rows=number)
        done()

    return run


def drained(store: Store, served: Served) -> Run:
    """A worker that takes all there is. That it waits for more before it ends is not counted."""
    worker = worker_of(store.redis, served.recipe, [served.champion])

    def run(done: Callable[[], None]) -> None:
        with running(worker):
            while worker.statistics.total("done") < len(served.users):
                time.sleep(_POLL_SECONDS)
            done()

    return run


def main() -> None:
    """One line."""
    made = parser(__doc__)
    made.add_argument("--recipe", default="demo")
    made.add_argument("--users", type=int, help=f"on the stream (default {USERS:,})")
    parsed = made.parse_args()
    options = options_of(parsed)
    num_users = parsed.users or (QUICK_USERS if options.quick else USERS)
    recipe = get_recipe(parsed.recipe)
    options.home.mkdir(parents=True, exist_ok=True)
    turns: list[tuple[Turn, Turn]] = []
    with (
        machine() as found,
        tempfile.TemporaryDirectory(dir=options.home) as name,
        redis_server(Path(name)) as server,
        redis.Redis.from_url(server.url) as client,
        one_thread(),
    ):
        served, store, pid = Served(recipe, num_users, Path(name)), Store(client), server.process.pid
        forward = bare(served)
        for turn in range(1 + options.runs):  # records fill up to three entries
            served.enqueue_all(store, feature_ms=FEATURE_MS + turn)
            turns.append((Turn(pid, forward), Turn(pid, drained(store, served))))
    turns = turns[1:]
    finish(
        "compute", options=options, recipe=recipe.name, users=num_users, machine=found,
        users_per_second=spread([num_users / worker.wall for _, worker in turns]),
        forward_users_per_second=spread([num_users / alone.wall for alone, _ in turns]),
        worker_us_per_user_cpu=spread([1e6 * worker.own / num_users for _, worker in turns], digits=1),
        forward_us_per_user_cpu=spread([1e6 * alone.own / num_users for alone, _ in turns], digits=1),
        redis_us_per_user_cpu=spread([1e6 * worker.redis / num_users for _, worker in turns], digits=1),
        ratio_cpu=round(statistics.median(alone.own / worker.own for alone, worker in turns), 3),
        goal=GOAL, ratio=statistics.median(alone.wall / worker.wall for alone, worker in turns),
    )  # fmt: skip


if __name__ == "__main__":
    main()
