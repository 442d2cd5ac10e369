"""A planned model: where each shard lies, what it holds and what a step costs there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.distributed.planner.types import Shard, ShardingOption
from torchrec.distributed.types import ShardingPlan

from trainer.planning.cluster import Cluster
from trainer.planning.dense import DensePart


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """Rows and columns of a table on one rank. Milliseconds per step, by TorchRec's estimator."""

    rank: int
    num_rows: int
    num_columns: int
    weight_bytes: int
    optimizer_bytes: int
    """Row-wise Adagrad: one float32 per row."""
    io_bytes: int
    """Ids in flight and pooled output, for the whole cluster's batch."""
    lookup_ms: float
    """Forward and backward kernels."""
    exchange_ms: float
    """Pooled output and its gradient, over the wire."""


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """One table."""

    path: str
    """Of its EmbeddingBagCollection in the model."""
    name: str
    num_rows: int
    dim: int
    num_features: int
    sharding_type: str
    shards: tuple[PlannedShard, ...]

    @property
    def weight_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.weight_bytes for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """Everything that a plan was made from, and the plan."""

    cluster: Cluster
    batch_size: int
    ids_per_feature: float
    dense: DensePart
    tables: tuple[PlannedTable, ...]
    """In the model's order."""
    sharding: ShardingPlan
    """For DistributedModelParallel."""


def planned_table(option: ShardingOption) -> PlannedTable:
    """The planner's chosen option."""
    rows, dim = option.tensor.shape
    return PlannedTable(
        path=option.path,
        name=option.name,
        num_rows=rows,
        dim=dim,
        num_features=option.num_inputs,
        sharding_type=option.sharding_type,
        shards=tuple(_planned_shard(shard) for shard in option.shards),
    )


def _planned_shard(shard: Shard) -> PlannedShard:
    rows, columns = shard.size
    storage, perf = shard.storage, shard.perf
    weight_bytes = rows * columns * torch.float32.itemsize
    # The GPUs' tables take nothing of the hosts' memory with the fused kernel, nor the other way round.
    held = storage.hbm + storage.ddr
    optimizer_bytes = rows * torch.float32.itemsize
    return PlannedShard(
        rank=shard.rank,
        num_rows=rows,
        num_columns=columns,
        weight_bytes=weight_bytes,
        optimizer_bytes=optimizer_bytes,
        io_bytes=held - weight_bytes - optimizer_bytes,
        lookup_ms=perf.fwd_compute + perf.bwd_compute,
        exchange_ms=perf.fwd_comms + perf.bwd_comms,
    )
