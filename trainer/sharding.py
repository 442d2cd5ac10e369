"""The sharded model: tables and their optimizer where the planner puts them, the dense part on every rank."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import QuantizedCommCodecs
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.config import TrainingConfig
from trainer.increments.load import load_state
from trainer.model.build import build_model
from trainer.model.initial import initialise_dense, initialise_tables
from trainer.model.multi_task import MultiTaskModel
from trainer.planning.cluster import Device, job_cluster
from trainer.planning.document import SavedPlan
from trainer.planning.inherit import plan_job
from trainer.planning.rules import FusedTableSharder
from trainer.recipe import Compute
from trainer.table_optimizer import optimize_in_backward

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_DENSE = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}


@dataclass(frozen=True, kw_only=True)
class ShardedModel:
    """One rank's part of the model and of its optimizer's state."""

    module: DistributedModelParallel
    """Call it with a `Batch`: it returns what `MultiTaskModel` returns."""
    dense: KeyedOptimizerWrapper
    """Stepped by the loop. The tables' optimizer runs inside backward."""
    optimizer: CombinedOptimizer
    """Both, for checkpoints."""
    plan: SavedPlan
    """Where the tables are."""
    device: torch.device
    compute: Compute

    @property
    def core(self) -> MultiTaskModel:
        """The model inside."""
        core = self.module.module
        return cast(MultiTaskModel, core.module if isinstance(core, nn.parallel.DistributedDataParallel) else core)

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


def build(
    config: TrainingConfig,
    *,
    local_world_size: int,
    parent_plan: SavedPlan | None = None,
    device: torch.device = _CPU,
) -> ShardedModel:
    """The model of `config` on this rank of the default process group, with its initial weights.

    It is sharded by `parent_plan` where that fits its tables and the world size, else by a plan of its own.
    DoesNotFitError when there is none.
    """
    cluster = job_cluster(
        world_size=dist.get_world_size(), local_world_size=local_world_size, device=cast(Device, device.type)
    )
    plan, origin = plan_job(config, cluster, parent=parent_plan)
    if dist.get_rank() == 0:
        log.info("%s tables=%d ranks=%d", origin, len(plan.tables), cluster.world_size)
    torch.manual_seed(config.seed)
    model = build_model(config, device=torch.device("meta"))
    initialise_dense(model, seed=config.seed)
    optimize_in_backward(model, config.optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        module = DistributedModelParallel(
            module=model,
            device=device,
            plan=plan.sharding_plan(),
            sharders=[FusedTableSharder(qcomm_codecs_registry=_codecs(config.compute, device))],
        )
    initialise_tables(module, seed=config.seed)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(module.named_parameters())),
        lambda parameters: _DENSE[config.optimizer.dense](parameters, lr=config.optimizer.dense_lr, fused=True),
    )
    return ShardedModel(
        module=module,
        dense=dense,
        optimizer=CombinedOptimizer([module.fused_optimizer, ("dense", dense)]),
        plan=plan,
        device=device,
        compute=config.compute,
    )


def _codecs(compute: Compute, device: torch.device) -> dict[str, QuantizedCommCodecs] | None:
    """How pooled embeddings and their gradients are packed between ranks. gloo sends what they are."""
    if compute.exchange == "fp32" or device.type == "cpu":
        return None
    precision = {"fp16": CommType.FP16, "bf16": CommType.BF16}[compute.exchange]
    registry: dict[str, QuantizedCommCodecs] = get_qcomm_codecs_registry(
        QCommsConfig(forward_precision=precision, backward_precision=precision), device=device
    )
    return registry
