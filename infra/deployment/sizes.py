"""What each part of a deployment needs: out of the sharding plan, the store's layout and measured rates.

A rule per part; what was measured stands with its figure in tests/benchmarks/README.md, what was assumed says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.capacity.rates import EMBEDDING_BYTES, FORWARD_FLOPS, LIST_SECONDS, RECORD_BYTES, USER_SECONDS
from serving.record import ENTRY, HEADER, KEPT

if TYPE_CHECKING:
    from trainer.planning.cluster import Cluster
    from trainer.planning.forecast import Forecast
    from trainer.planning.planned import PlannedModel
    from trainer.recipe import Recipe

MIB, GIB = 1 << 20, 1 << 30
STORE_HEADROOM = 1.5
"""Fragmentation, streams, and what is copied while a dump is written; assumed."""
HTTP_SECONDS = 573e-6
"""A read by HTTP (`soap_read`), most of it of the process's one core."""
BUSY = 0.5
"""Of a core at the peak: latency stays, and one zone of two may fail; assumed."""
HTTP_BYTES, RANK_BYTES, WORKER_BYTES = 256 * MIB, 700 * MIB, 450 * MIB
"""Of a process before it holds anything: 108 MB resident; 451 MB, and 128 MiB of a reader's window; 383 MiB."""
GPU_RANK_BYTES = 4 * GIB
"""Of the host's memory; assumed."""
MOST_TABLE_BYTES = 8 * GIB
"""That a compute worker holds itself, twice while it exchanges a version; what has more lies with shards."""
TABLE_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}
"""Per number; a row of int8 has 8 bytes more."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of the deployment."""

    users: int
    """With an entry in the feature store."""
    requests_per_second: float
    """At the peak; each wants its user computed, unless the mode is batch."""
    ids_per_feature: float

    def __post_init__(self) -> None:
        for name in ("users", "requests_per_second", "ids_per_feature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is positive")


@dataclass(frozen=True, kw_only=True)
class Part:
    """`replicas` equal processes or hosts. gpus: of each."""

    replicas: int
    cpus: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of one user model."""

    recipe: str
    http: Part
    compute: Part | None
    """None: its mode computes nothing online."""
    shards: Part | None
    """None: every compute worker holds the tables itself."""
    training: Part
    """A host of the training job."""
    ranks_per_host: int
    store_bytes: int
    """The feature store's `maxmemory`, over all nodes of a cluster."""
    state_bytes: int
    """Lake, checkpoints and snapshots that retention keeps, the landed log apart."""


def sizes_of(recipe: Recipe, planned: PlannedModel, cost: Forecast, load: Load) -> Sizes:
    """Of a recipe, planned for the cluster that it is trained on, under a load."""
    tables = _served_table_bytes(recipe, planned)
    shards = _shards(tables)
    return Sizes(
        recipe=recipe.name,
        http=Part(
            replicas=max(2, _cores(load.requests_per_second * HTTP_SECONDS)), cpus=1, memory_bytes=2 * HTTP_BYTES
        ),
        compute=_compute(recipe, load, 0 if shards else tables) if recipe.serving.computes else None,
        shards=shards if recipe.serving.computes else None,
        training=_training(planned.cluster, cost),
        ranks_per_host=planned.cluster.ranks_per_host,
        store_bytes=round(STORE_HEADROOM * load.users * _store_bytes_per_user(recipe, load)),
        state_bytes=_state_bytes(recipe, planned, cost, load, tables),
    )


def _cores(busy: float) -> int:
    """That do `busy` core-seconds per second."""
    return math.ceil(busy / BUSY)


def compute_seconds(recipe: Recipe) -> float:
    """That a compute worker's core works on one user: the forward pass, the features, the rest."""
    from infra.experiments.capacity import tower_multiply_adds  # torch, which values and charts do without

    lists = len(recipe.schema.sparse_of("user"))
    forward = 2 * tower_multiply_adds(recipe) / FORWARD_FLOPS.value
    return forward + lists * LIST_SECONDS.value + USER_SECONDS.value


def _compute(recipe: Recipe, load: Load, table_bytes: int) -> Part:
    """A worker per core."""
    replicas = _cores(load.requests_per_second * compute_seconds(recipe))
    return Part(replicas=max(2, replicas), cpus=1, memory_bytes=WORKER_BYTES + 256 * MIB + 2 * table_bytes)


def _shards(table_bytes: int) -> Part | None:
    if 2 * table_bytes <= MOST_TABLE_BYTES:
        return None
    count = math.ceil(2 * table_bytes / MOST_TABLE_BYTES)
    return Part(replicas=count, cpus=2, memory_bytes=256 * MIB + math.ceil(2 * table_bytes / count))


def _training(cluster: Cluster, cost: Forecast) -> Part:
    """What the fullest rank holds by the plan. Tables and their state lie on the GPUs where there are any."""
    gpus = cluster.ranks_per_host if cluster.hardware.device == "cuda" else 0
    fullest = max(rank.batch_bytes if gpus else rank.used_bytes for rank in cost.ranks)
    held = cluster.ranks_per_host * ((GPU_RANK_BYTES if gpus else RANK_BYTES) + round(1.25 * fullest))
    cpus = cluster.ranks_per_host * (4 if gpus else 1)
    return Part(replicas=cluster.hosts, cpus=cpus, memory_bytes=held, gpus=gpus)


def _served_table_bytes(recipe: Recipe, planned: PlannedModel) -> int:
    number, row = TABLE_BYTES[recipe.export.tables], 8 if recipe.export.tables == "int8" else 0
    served = [table for table in planned.tables if table.path.startswith("user_tower")]
    return round(sum(table.num_rows * (table.dim * number + row) for table in served))


def _store_bytes_per_user(recipe: Recipe, load: Load) -> int:
    tower = recipe.user_tower
    record = HEADER.size + KEPT * (ENTRY.size + 2 * tower.num_embeddings * tower.dim) + round(RECORD_BYTES.value)
    if not recipe.serving.computes:
        return record
    sparse, dense = recipe.schema.sparse_of("user"), recipe.schema.dense_of("user")
    return record + round(len(sparse) * load.ids_per_feature * 8 + 4 * len(dense)) + round(RECORD_BYTES.value)


def _state_bytes(recipe: Recipe, planned: PlannedModel, cost: Forecast, load: Load, tables: int) -> int:
    """Every kept day in full: increments take less. K computed and K pooled vectors of every user."""
    sharded = sum(rank.table_bytes + rank.optimizer_bytes for rank in cost.ranks)
    checkpoint = sharded + 3 * planned.dense.parameter_bytes
    tower = recipe.user_tower
    embeddings = load.users * 2 * tower.num_embeddings * tower.dim * EMBEDDING_BYTES.value
    return round(recipe.keep_days * (checkpoint + tables + embeddings))
