"""The classic DLRM, sharded like the user model: the yardstick that trainers are compared by."""

from __future__ import annotations

import torch
from torch import nn

from features.batches import Batch
from features.schema import SIDES
from trainer.config import Dlrm, TrainingConfig
from trainer.model.embeddings import SparseEmbeddings
from trainer.model.mlp import mlp
from trainer.model.multi_task import MultiTaskModel
from trainer.model.pairwise_dots import Dots


class DlrmModel(MultiTaskModel):
    """Pooled rows of every sparse feature and a bottom MLP of the dense ones; their pairwise dot products and the
    bottom's output feed the over MLP. The sides are one."""

    def __init__(self, config: TrainingConfig, dlrm: Dlrm, *, device: torch.device | None = None) -> None:
        super().__init__(config.tasks)
        where = device or torch.device("cpu")
        self.user, self.item = (
            SparseEmbeddings(config.schema, side, dim=dlrm.dim, device=where, normed=False) for side in SIDES
        )
        num_dense = len(config.schema.dense)
        if not num_dense:
            raise ValueError("the schema has no dense feature; a DLRM's bottom MLP needs at least one")
        self.bottom = nn.Sequential(mlp([num_dense, *dlrm.bottom, dlrm.dim]), nn.ReLU())
        self.dots = Dots(1 + self.user.num_embeddings + self.item.num_embeddings)
        widths = [dlrm.dim + self.dots.num_pairs, *dlrm.over]
        self.over = nn.Sequential(mlp(widths), nn.ReLU())
        self.output = nn.Linear(widths[-1], len(config.tasks))

    def predict(self, batch: Batch) -> tuple[torch.Tensor, None]:
        """Logits [B, T]."""
        dense = self.bottom(torch.cat([batch.user_dense, batch.item_dense], dim=1))  # [B, D]
        sparse = [self.user(batch.user_sparse), self.item(batch.item_sparse)]
        x = torch.cat([dense.unsqueeze(1), *sparse], dim=1)  # [B, 1 + N, D]
        logits: torch.Tensor = self.output(self.over(torch.cat([dense, self.dots(x)], dim=1)))
        return logits, None

    def last_layer(self) -> nn.Linear:
        """The over MLP's."""
        return self.output
