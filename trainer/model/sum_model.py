"""The upstream SUM model (section 3): user tower, mix tower and loss."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from features.batches import Batch
from trainer.config import Sum, TrainingConfig
from trainer.model.losses import distance_to_teacher
from trainer.model.mix_tower import MixTower
from trainer.model.multi_task import MultiTaskModel
from trainer.model.taught import TaughtBatch
from trainer.model.user_tower import UserTower
from trainer.stabilizers import Distillation


class SumModel(MultiTaskModel):
    """`device`: where the tables are built; `meta` when they are sharded afterwards."""

    def __init__(self, config: TrainingConfig, towers: Sum, *, device: torch.device | None = None) -> None:
        super().__init__(config.tasks)
        self.distillation: Distillation | None = None
        """Set before the first step: from then on every batch that is learnt is a `TaughtBatch`."""
        self.user_tower = UserTower(config.schema, towers.user_tower, device=device)
        self.mix_tower = MixTower(
            config.schema,
            towers.mix_tower,
            num_user_embeddings=towers.user_tower.num_embeddings,
            dim=towers.user_tower.dim,
            num_tasks=len(config.tasks),
            device=device,
        )

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, T], and the weighted distance to the teacher if there is one.

        The tracer of TorchRec's pipeline sees one branch: what is chosen here stays for the day.
        """
        users = self.user_tower(batch.user_sparse, batch.user_dense)
        logits: torch.Tensor = self.mix_tower(users, batch.item_sparse, batch.item_dense)
        if self.distillation is None or not self.training:
            return logits, None
        apart = distance_to_teacher(
            users,
            cast(TaughtBatch, batch).taught,
            distance=self.distillation.distance,
            weights=batch.weights,
            num_examples=batch.num_examples,
        )
        return logits, self.distillation.weight * apart

    def last_layer(self) -> nn.Linear:
        """Of the mix tower."""
        return self.mix_tower.output
