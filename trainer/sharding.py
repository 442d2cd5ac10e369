"""The sharded model: tables and their optimizer where the planner puts them, the dense part on every rank."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.checkpoint import load_state
from trainer.config import TrainingConfig
from trainer.model.initial import initialise_dense, initialise_tables
from trainer.model.sum_model import SumModel

SHARDING_TYPES = (ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value)
"""Table- and row-wise checkpoints load into each other at any number of ranks. Column-wise ones do not:
their row-wise Adagrad state has one column per shard. Data-parallel tables would leave the in-backward
optimizer."""

ROW_WISE_BYTES = 256 * 2**20
"""Smaller tables stay whole on one rank: splitting one costs a reduce-scatter per step and saves nothing."""

_MEMORY_RESERVE = 0.15
"""The share of a rank's memory that the planner leaves for the dense part and the batches."""


class CpuEmbeddingBagCollectionSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """TorchRec offers fewer sharding types on CPU than work there."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Table- and row-wise."""
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Only kernels with the optimizer in backward."""
        return [EmbeddingComputeKernel.FUSED.value]


@dataclass(frozen=True, kw_only=True)
class ShardedModel:
    """One rank's part of the model and of its optimizer's state."""

    module: DistributedModelParallel
    """Call it with a `Batch`: it returns what `SumModel` returns."""
    dense: KeyedOptimizerWrapper
    """Stepped by the loop. The tables' optimizer runs inside backward."""
    optimizer: CombinedOptimizer
    """Both, for checkpoints."""

    @property
    def core(self) -> SumModel:
        """The `SumModel` inside."""
        core = self.module.module
        return cast(SumModel, core.module if isinstance(core, nn.parallel.DistributedDataParallel) else core)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: weights and optimizer state, sharded."""
        return {"model": self.module.state_dict(), "optim": self.optimizer.state_dict()}

    def load(self, directory: Path) -> None:
        """Take weights and optimizer state of a checkpoint of any world size. A collective."""
        # Tensors to load into. It counts as a step of Adam, so a cold start does without.
        self.dense.init_state()
        state = self.state_dict()
        load_state(directory, state)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optim"])


def plan(model: nn.Module, *, world_size: int, local_world_size: int, batch_size: int) -> ShardingPlan:
    """The planner's plan. Pure: every rank computes the same one, so an error reaches all of them at once
    (on rank 0 alone, inside `collective_plan`, it would hang the others)."""
    constraints = {
        config.name: ParameterConstraints(sharding_types=_sharding_types(config))
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world_size, local_world_size=local_world_size, compute_device="cpu"),
        batch_size=batch_size,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(_MEMORY_RESERVE),
    )
    return planner.plan(model, [CpuEmbeddingBagCollectionSharder()])


def _sharding_types(table: EmbeddingBagConfig) -> list[str]:
    num_bytes = table.num_embeddings * table.embedding_dim * torch.float32.itemsize
    return list(SHARDING_TYPES if num_bytes >= ROW_WISE_BYTES else SHARDING_TYPES[:1])


def build(config: TrainingConfig, *, local_world_size: int) -> ShardedModel:
    """The model of `config` on this rank of the default process group, with its initial weights."""
    torch.manual_seed(config.seed)
    model = SumModel(config, device=torch.device("meta"))
    initialise_dense(model, seed=config.seed)
    tables = [module for module in model.modules() if isinstance(module, EmbeddingBagCollection)]
    for collection in tables:
        # A dict of its own for each: DistributedModelParallel changes the keyword arguments it is given.
        apply_optimizer_in_backward(
            RowWiseAdagrad,
            collection.parameters(),
            {"lr": config.optimizer.sparse_lr, "eps": config.optimizer.epsilon},
        )
    sharding_plan = plan(
        model,
        world_size=dist.get_world_size(),
        local_world_size=local_world_size,
        batch_size=config.batch_size,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        module = DistributedModelParallel(
            module=model,
            device=torch.device("cpu"),
            plan=sharding_plan,
            sharders=[CpuEmbeddingBagCollectionSharder()],
        )
    initialise_tables(module, seed=config.seed)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(module.named_parameters())),
        lambda parameters: torch.optim.Adam(parameters, lr=config.optimizer.dense_lr, fused=True),
    )
    return ShardedModel(
        module=module, dense=dense, optimizer=CombinedOptimizer([module.fused_optimizer, ("dense", dense)])
    )
