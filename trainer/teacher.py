"""The user tower that a day began from, frozen: what distillation keeps near to."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from features.batches import Batch
from trainer.config import Sum, TrainingConfig
from trainer.model.taught import TaughtBatch
from trainer.model.user_tower import UserTower
from trainer.planning.rules import FusedTableSharder
from trainer.sharding import ShardedModel
from trainer.shards import local_parts

_TOWER = "user_tower"


class Teacher:
    """A copy of the user tower of `sharded` as it is now, sharded by the same plan. A collective to make and to ask.

    It takes the memory of the user side's tables once more, without an optimizer's state, and a forward pass of the
    user tower per step.
    """

    def __init__(self, sharded: ShardedModel, config: TrainingConfig) -> None:
        assert isinstance(config.model, Sum), "only a model with a user tower has user embeddings"
        with sharded.device:
            tower = UserTower(config.schema, config.model.user_tower, device=torch.device("meta"))
        plan = sharded.plan.sharding_plan().plan
        self._module = DistributedModelParallel(
            module=nn.ModuleDict({_TOWER: tower}),
            device=sharded.device,
            plan=ShardingPlan({path: of for path, of in plan.items() if path.startswith(f"{_TOWER}.")}),
            sharders=[FusedTableSharder()],
            init_data_parallel=False,  # nothing of it is learnt
        ).eval()
        state = sharded.module.state_dict()
        with torch.no_grad():
            for name, copy in self._module.state_dict().items():
                for (_, to), (_, of) in zip(local_parts(copy), local_parts(state[name]), strict=True):
                    to.copy_(of)

    @property
    def num_bytes(self) -> int:
        """On this rank."""
        parts = (part for copy in self._module.state_dict().values() for _, part in local_parts(copy))
        return sum(part.nbytes for part in parts)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TaughtBatch:
        """The batch with the teacher's embeddings of its users."""
        taught = self._module.module[_TOWER](batch.user_sparse, batch.user_dense)
        return TaughtBatch(**vars(batch), taught=taught)
