"""Models of tables alone, on meta, for planning."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from trainer.planning.cluster import CPU_HOST, GB, GPU_HOST, Cluster
from trainer.planning.dense import DensePart
from trainer.planning.planned import PlannedModel
from trainer.planning.planner import plan_tables
from trainer.recipe import Optimizer
from trainer.table_optimizer import optimize_in_backward

NO_DENSE = DensePart(parameter_bytes=0)
SMALL, LARGE = 10_000, 2_000_000
"""Rows of 64 floats: the large ones pass the threshold of 256 MiB."""


def tables_model(*rows: int, dim: int = 64, features: int = 2) -> nn.Module:
    """Tables t0, t1 … of these rows, with their optimizer."""
    tables = [
        EmbeddingBagConfig(
            name=f"t{index}",
            num_embeddings=num_rows,
            embedding_dim=dim,
            feature_names=[f"f{index}_{feature}" for feature in range(features)],
        )
        for index, num_rows in enumerate(rows)
    ]
    model = nn.Sequential(EmbeddingBagCollection(tables=tables, device=torch.device("meta")))
    optimize_in_backward(model, Optimizer())
    return model


def cpus(hosts: int = 1, ranks_per_host: int = 2, *, gb: float = 512) -> Cluster:
    """CPU hosts of this much memory."""
    return Cluster(hosts=hosts, ranks_per_host=ranks_per_host, hardware=replace(CPU_HOST, ddr_bytes=int(gb * GB)))


def gpus(hosts: int = 1, ranks_per_host: int = 2, *, gb: float = 80) -> Cluster:
    """Hosts with GPUs of this much memory."""
    return Cluster(hosts=hosts, ranks_per_host=ranks_per_host, hardware=replace(GPU_HOST, hbm_bytes=int(gb * GB)))


def plan_of(model: nn.Module, cluster: Cluster, *, dense: DensePart = NO_DENSE, batch_size: int = 64) -> PlannedModel:
    """Its plan, with ten ids per list."""
    return plan_tables(model, cluster, dense=dense, batch_size=batch_size, ids_per_feature=10.0)
