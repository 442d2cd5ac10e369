"""Sealed towers of random weights, and shards of them on loopback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.batches import Batch, Encoder
from features.schema import Schema
from infra.settings import Settings
from serving.shards.client import Shards
from serving.shards.partition import Share
from serving.shards.server import ShardServer
from snapshots.aligned import DayAlignment
from snapshots.export import export_day
from tests.snapshots.world import DAYS, TinySource, make_tower, tiny_recipe
from trainer.recipe import Export

MODEL = "tiny"


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A snapshot's folder and the SHA-256 of its manifest."""

    folder: Path
    manifest_sha256: str


def seal(
    settings: Settings,
    *,
    tables: str = "fp32",
    aligned: bool = False,
    schema: Schema | None = None,
    day: int = 0,
) -> Sealed:
    """A tower whose weights depend on the day."""
    source = TinySource() if schema is None else TinySource(schema=schema)
    recipe = replace(tiny_recipe(), source=source, export=Export(tables=tables))  # type: ignore[arg-type]
    tower = make_tower(recipe, seed=day)
    size = recipe.user_tower.num_embeddings * recipe.user_tower.dim
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0].astype(np.float32)
    folder, manifest_sha256 = export_day(
        recipe, DAYS[day], fingerprint=f"{day}" * 64, make_tower=lambda: tower, maps={}, settings=settings,
        align=(lambda _: (DayAlignment(kind="procrustes"), turn)) if aligned else None,
    )  # fmt: skip
    return Sealed(folder=folder, manifest_sha256=manifest_sha256)


@contextmanager
def serving(settings: Settings, num_shards: int) -> Iterator[list[ShardServer]]:
    """Shards of the model in this process."""
    made = [ShardServer(settings.artifacts / MODEL, Share(index=index, of=num_shards)) for index in range(num_shards)]
    try:
        yield made
    finally:
        for server in made:
            server.shutdown()


def addresses(servers: Sequence[ShardServer]) -> list[str]:
    """Of servers of this process."""
    return [f"127.0.0.1:{server.port}" for server in servers]


def connected(servers: Sequence[ShardServer], *, deadline_seconds: float = 10.0) -> Shards:
    """With time for a busy machine."""
    return Shards(addresses(servers), deadline_seconds=deadline_seconds)


def batch(schema: Schema, num_users: int, *, longest: int = 4) -> Batch:
    """Lists of 0 to `longest` ids."""
    rng = np.random.default_rng([num_users, longest])
    columns: dict[str, object] = {"user_id": list(range(num_users))}
    for feature in schema.sparse_of("user"):
        lists = [rng.integers(0, 10**6, rng.integers(0, longest + 1)).tolist() for _ in range(num_users)]
        columns[feature.name] = pa.array(lists, pa.list_(pa.int64()))
    for dense in schema.dense_of("user"):
        columns[dense.name] = pa.array(rng.random(num_users), pa.float32())
    return Encoder(schema, sides=("user",)).encode(pa.table(columns))
