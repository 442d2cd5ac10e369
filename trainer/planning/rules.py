"""How a table may be sharded, and by which kernel: the rules that a planner chooses within.

Table-wise and row-wise checkpoints load into each other at any number of ranks. Column-wise and grid ones do not:
their row-wise Adagrad state has one column per column shard. Data-parallel tables would leave the optimizer in
backward.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.types import ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from trainer.planning.cluster import Cluster

TABLE_WISE = ShardingType.TABLE_WISE.value
ROW_WISE = ShardingType.ROW_WISE.value
TABLE_ROW_WISE = ShardingType.TABLE_ROW_WISE.value

SHARDING_TYPES = (TABLE_WISE, TABLE_ROW_WISE, ROW_WISE)
"""Coarsest first."""

ROW_WISE_BYTES = 256 * 2**20
"""Smaller tables stay whole on one rank: splitting one costs a reduce-scatter per step and saves nothing."""

_HOST_SHARE = 4
"""Over several hosts of GPUs, only a table of more than one host's memory / 4 may be split across all ranks:
table-row-wise splits it too, and its reduce-scatter stays on NVLink."""


class FusedTableSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """TorchRec offers fewer sharding types on CPU than work there, and kernels without the optimizer."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """What the rules know; `constraints` says which table may have which."""
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Only kernels with the optimizer in backward."""
        return [EmbeddingComputeKernel.FUSED.value]


def tables_of(model: nn.Module) -> dict[str, list[EmbeddingBagConfig]]:
    """The tables of every EmbeddingBagCollection of the model, by its path."""
    return {
        path: list(module.embedding_bag_configs())
        for path, module in model.named_modules()
        if isinstance(module, EmbeddingBagCollection)
    }


def constraints(model: nn.Module, cluster: Cluster, *, ids_per_feature: float) -> dict[str, ParameterConstraints]:
    """Per table. One pooling factor per feature: with none, TorchRec counts a table's traffic as one feature's."""
    return {
        table.name: ParameterConstraints(
            sharding_types=allowed_types(table, cluster),
            pooling_factors=[ids_per_feature] * len(table.feature_names),
        )
        for tables in tables_of(model).values()
        for table in tables
    }


def table_bytes(table: EmbeddingBagConfig) -> int:
    """Of the weights, float32."""
    return int(table.num_embeddings * table.embedding_dim * torch.float32.itemsize)


def allowed_types(table: EmbeddingBagConfig, cluster: Cluster) -> list[str]:
    """Coarsest first."""
    num_bytes = table_bytes(table)
    if num_bytes < ROW_WISE_BYTES or cluster.world_size == 1:
        return [TABLE_WISE]
    if cluster.hardware.device == "cpu" or cluster.hosts == 1:
        return [TABLE_WISE, ROW_WISE]
    if num_bytes * _HOST_SHARE <= cluster.rank_bytes * cluster.ranks_per_host:
        return [TABLE_WISE, TABLE_ROW_WISE]
    return [TABLE_WISE, TABLE_ROW_WISE, ROW_WISE]
