"""The upstream SUM model (section 3): user tower, mix tower and loss."""

from __future__ import annotations

import torch
from torch import nn

from features.batches import Batch
from trainer.config import TrainingConfig
from trainer.model.losses import weighted_cross_entropy
from trainer.model.mix_tower import MixTower
from trainer.model.user_tower import UserTower

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class SumModel(nn.Module):
    """`device`: where the tables are built; `meta` when they are sharded afterwards."""

    def __init__(self, config: TrainingConfig, *, device: torch.device | None = None) -> None:
        super().__init__()
        self.user_tower = UserTower(config.schema, config.user_tower, embedding_dim=config.embedding_dim, device=device)
        self.mix_tower = MixTower(
            config.schema,
            config.mix_tower,
            user_embeddings=config.user_tower.num_embeddings,
            user_dim=config.user_tower.dim,
            embedding_dim=config.embedding_dim,
            num_tasks=len(config.tasks),
            device=device,
        )
        weights = torch.tensor([task.weight for task in config.tasks])
        self.register_buffer("_task_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """(loss, (detached loss, logits [B, T], labels [B, T], weights [B]))."""
        users = self.user_tower(batch.user_sparse, batch.user_dense)
        logits = self.mix_tower(users, batch.item_sparse, batch.item_dense)
        loss = weighted_cross_entropy(
            logits,
            batch.labels,
            task_weights=self.get_buffer("_task_weights"),
            weights=batch.weights,
            num_examples=batch.num_examples,
        )
        return loss, (loss.detach(), logits.detach(), batch.labels, batch.weights)
