"""The upstream SUM model (section 3): user tower, mix tower and loss."""

from __future__ import annotations

import torch
from torch import nn

from features.batches import Batch
from trainer.config import Sum, TrainingConfig
from trainer.model.mix_tower import MixTower
from trainer.model.multi_task import MultiTaskModel
from trainer.model.user_tower import UserTower


class SumModel(MultiTaskModel):
    """`device`: where the tables are built; `meta` when they are sharded afterwards."""

    def __init__(self, config: TrainingConfig, towers: Sum, *, device: torch.device | None = None) -> None:
        super().__init__(config.tasks)
        self.user_tower = UserTower(config.schema, towers.user_tower, device=device)
        self.mix_tower = MixTower(
            config.schema,
            towers.mix_tower,
            num_user_embeddings=towers.user_tower.num_embeddings,
            dim=towers.user_tower.dim,
            num_tasks=len(config.tasks),
            device=device,
        )

    def logits(self, batch: Batch) -> torch.Tensor:
        """[B, T]."""
        users = self.user_tower(batch.user_sparse, batch.user_dense)
        logits: torch.Tensor = self.mix_tower(users, batch.item_sparse, batch.item_dense)
        return logits

    def last_layer(self) -> nn.Linear:
        """Of the mix tower."""
        return self.mix_tower.output
