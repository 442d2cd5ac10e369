"""Two user models of one source with sealed versions, their requests, and workers in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.settings import Settings
from serving.compute.champions import Champions, Load, whole
from serving.compute.queue import Requests, streams_of
from serving.compute.statistics import Statistics
from serving.compute.worker import Options, Worker
from serving.features import FeatureCodec
from serving.store import Request, Store
from snapshots.registry import Registry, Version
from tests.serving.servers import in_thread, until
from tests.snapshots.world import DAYS, make_tower, publish_day, tiny_recipe
from trainer.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

NOW_MS = 1_767_268_800_000
"""Of the features: noon of the first day."""
QUICK = Options(latency_ms=0, claim_seconds=0.05)


@dataclass(frozen=True, kw_only=True)
class World:
    """recipe: of `tiny`, whose versions are 1, 2 and 3. other: of `other`, with one."""

    settings: Settings
    recipe: Recipe
    other: Recipe
    versions: list[Version]

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def promote(self, number: int, model: str = "tiny") -> None:
        """Move the alias."""
        self.registry.set_alias(model, "champion", number)


def make_world(settings: Settings) -> World:
    recipe = tiny_recipe()
    other = replace(recipe, name="other")
    versions = [
        publish_day(recipe, ds, make_tower(recipe, seed=seed), settings=settings) for seed, ds in enumerate(DAYS[:3])
    ]
    made = publish_day(other, DAYS[0], make_tower(other, seed=9), settings=settings)
    Registry(settings).set_alias("other", "champion", made.number)
    return World(settings=settings, recipe=recipe, other=other, versions=versions)


def payload(user: int) -> bytes:
    """Features that depend on the user alone."""
    rng = np.random.default_rng(abs(user))
    liked, seen = rng.integers(0, 10**6, rng.integers(0, 4)).tolist(), rng.integers(0, 10**6, 3).tolist()
    return CODEC.encode({"liked": liked, "seen": seen, "age": 30.0})


CODEC = FeatureCodec(tiny_recipe().schema)


def request(user: int, *, feature_ms: int = NOW_MS, features: bytes | None = None, longest: int = 10**6) -> Request:
    return Request(
        source="tiny", user=user, feature_ms=feature_ms, payload=payload(user) if features is None else features,
        ttl_seconds=600, longest=longest, future_seconds=60,
    )  # fmt: skip


def expected(version: Version, users: Sequence[int]) -> NDArray[np.float16]:
    """As a batch embeds them."""
    from snapshots.embedder import embedder_of

    rows = CODEC.decode(users, [payload(user) for user in users])
    return embedder_of(version).embed(rows).astype(np.float16)


def stored(store: Store, users: Sequence[int], model: str = "tiny") -> list[list[tuple[int, int]]]:
    """(version, feature time) of each user's entries."""
    found = [store.read(user, (model,))[0] for user in users]
    return [
        [] if one is None else [(int(entry["version"]), int(entry["feature_ms"])) for entry in one.entries]
        for one in found
    ]


wait_until = partial(until, seconds=20)


def requests_of(
    store: Store, *, consumer: str = "one", sources: Sequence[str] = ("tiny",), partitions: Iterable[int] | None = None
) -> Requests:
    own = range(store.keys.partitions) if partitions is None else partitions
    made = Requests(store.redis, store.keys, streams_of(sources, own, store.keys), consumer=consumer)
    made.open()
    return made


def stream_length(store: Store) -> int:
    """Entries that are not done."""
    found: Any = store.redis.xlen(store.keys.requests("tiny", 0))
    return int(found)


def champions_of(
    world: World, store: Store, *recipes: Recipe, load: Load = whole, statistics: Statistics | None = None
) -> Champions:
    """Not polled yet."""
    return Champions(
        recipes or (world.recipe,), settings=world.settings, store=store, statistics=statistics or Statistics(),
        load=load, warm_up=(1, 8),
    )  # fmt: skip


@contextmanager
def working(
    world: World,
    store: Store,
    *recipes: Recipe,
    load: Load = whole,
    options: Options = QUICK,
    consumer: str = "one",
) -> Iterator[Worker]:
    """A worker in a thread. At the end it drains, and what it raised is raised."""
    statistics = Statistics()
    champions = champions_of(world, store, *recipes, load=load, statistics=statistics)
    champions.poll()
    worker = Worker(
        requests_of(store, consumer=consumer), champions, {"tiny": CODEC}, options=options, statistics=statistics
    )
    with in_thread(worker):
        yield worker


class Watched:
    """A tower that tells what it is given, and may be made to fail."""

    def __init__(self, folder: Path, manifest_sha256: str) -> None:
        self._tower = whole(folder, manifest_sha256)
        self.check: Callable[[list[int]], None] = lambda users: None
        self.before: Callable[[list[int]], None] = lambda users: None
        self.spoil: Callable[[list[int], NDArray[np.float32]], None] = lambda users, vectors: None
        self.batches: list[list[int]] = []

    def encode(self, rows: pa.RecordBatch) -> Sequence[Any]:
        users = rows.column("user_id").to_pylist()
        self.check(users)
        return [(users, self._tower.encode(rows))]

    def compute(self, inputs: Sequence[Any], *, num_rows: int) -> NDArray[np.float32]:
        ((users, own),) = inputs
        self.batches.append(users)
        self.before(users)
        vectors = self._tower.compute(own, num_rows=num_rows)
        self.spoil(users, vectors)
        return vectors


class Watching:
    """Loads towers that are watched."""

    def __init__(self) -> None:
        self.towers: list[Watched] = []

    def __call__(self, folder: Path, manifest_sha256: str) -> Watched:
        self.towers.append(Watched(folder, manifest_sha256))
        return self.towers[-1]

    @property
    def tower(self) -> Watched:
        return self.towers[-1]
