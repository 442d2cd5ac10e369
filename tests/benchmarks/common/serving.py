"""One user model behind a feature store: its exported tower, its users' features, a worker of the compute center."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import redis

from features.schema import EVENT_TIME, USER_ID
from infra.settings import Settings
from serving.compute.champions import Champion, Champions
from serving.compute.queue import Requests, streams_of
from serving.compute.remembered import Reference
from serving.compute.service import end_on_signals
from serving.compute.statistics import Statistics
from serving.compute.worker import Options, Worker
from serving.connection import connect
from serving.features import FeatureCodec
from serving.keys import ONE_SERVER
from serving.store import Request, Store
from snapshots.embedder import Embedder
from snapshots.export import export_day
from snapshots.seal import verify
from tests.benchmarks.batch_inference import users_of
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.recipes import get_recipe

DAY = date(2026, 1, 1)
FEATURE_MS = 1_767_225_600_000
TTL_SECONDS = 3_600.0
_AT_ONCE = 500


class Served:
    """One model, with a sealed snapshot of a tower that has learnt nothing."""

    def __init__(self, recipe: Recipe, num_users: int, home: Path) -> None:
        self.recipe, self.source = recipe, recipe.source.name
        self.codec = FeatureCodec(recipe.schema)
        settings = Settings(home=home, _env_file=None)
        folder, manifest = export_day(
            recipe, DAY, fingerprint="0" * 64, maps={}, settings=settings,
            make_tower=lambda: UserTower(recipe.schema, recipe.user_tower).eval().requires_grad_(False),
        )  # fmt: skip
        self.embedder = Embedder(folder, manifest_sha256=manifest)
        rows = users_of(recipe.schema, num_users).drop_columns([EVENT_TIME]).to_pylist()
        self.users = [int(row.pop(USER_ID)) for row in rows]
        self.payloads = [self.codec.encode(row) for row in rows]
        tower = recipe.user_tower
        reference = Reference(
            model=recipe.name, version=1, ds=DAY.isoformat(), path=folder, manifest_sha256=manifest, withdrawn=()
        )
        self.champion = Champion(
            reference=reference, recipe=recipe, tower=self.embedder, num_embeddings=tower.num_embeddings, dim=tower.dim
        )

    def request(self, at: int, *, feature_ms: int = FEATURE_MS, longest: int = 10**9) -> Request:
        """Of the user at this place."""
        return Request(
            source=self.source, user=self.users[at], feature_ms=feature_ms, payload=self.payloads[at],
            ttl_seconds=TTL_SECONDS, longest=longest, future_seconds=60.0,
        )  # fmt: skip

    def enqueue_all(self, store: Store, *, feature_ms: int = FEATURE_MS) -> None:
        """Every user once."""
        for begin in range(0, len(self.users), _AT_ONCE):
            places = range(begin, min(begin + _AT_ONCE, len(self.users)))
            store.enqueue([self.request(at, feature_ms=feature_ms) for at in places])


class Fixed(Champions):
    """Champions that nobody exchanges."""

    def __init__(self, champions: Sequence[Champion]) -> None:
        self._current = {one.reference.model: one for one in champions}
        self._recipes = {one.reference.model: one.recipe for one in champions}
        self._looked = True


def worker_of(
    client: redis.Redis, recipe: Recipe, champions: Sequence[Champion], *, options: Options | None = None
) -> Worker:
    """It reads what is queued for the recipe's source."""
    source = recipe.source.name
    requests = Requests(
        client, ONE_SERVER, streams_of([source], [0], ONE_SERVER), consumer=f"worker-{time.monotonic_ns()}"
    )
    requests.open()
    return Worker(
        requests, Fixed(champions), {source: FeatureCodec(recipe.schema)}, options=options or Options(latency_ms=0),
        statistics=Statistics(),
    )  # fmt: skip


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """In a thread, until the block ends."""
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


def main(url: str, recipe_name: str, folder: Path) -> None:
    """A worker of one process, with the sealed snapshot in `folder`, until SIGTERM."""
    recipe = get_recipe(recipe_name)
    tower = recipe.user_tower
    reference = Reference(
        model=recipe.name, version=1, ds=DAY.isoformat(), path=folder, manifest_sha256=verify(folder), withdrawn=()
    )
    champion = Champion(
        reference=reference, recipe=recipe, tower=Embedder(folder), num_embeddings=tower.num_embeddings, dim=tower.dim
    )
    worker = worker_of(connect(url, timeout_seconds=5), recipe, [champion], options=Options())
    end_on_signals(worker)
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
