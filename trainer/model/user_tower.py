"""The user tower (section 3.2): everything known about a user -> K embeddings of dimension D."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.schema import Schema
from trainer import recipe
from trainer.model.embeddings import DenseEmbeddings, SparseEmbeddings
from trainer.model.pyramid import Pyramid

_DENSE_EMBEDDINGS = 4


class UserTower(nn.Module):
    """Initial embeddings, a residual pyramid over all of them, K x D outputs.

    device: where the tables are built; `meta` when they are sharded or loaded afterwards.
    """

    def __init__(
        self,
        schema: Schema,
        config: recipe.UserTower,
        *,
        embedding_dim: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        where = device or torch.device("cpu")
        self.num_embeddings = config.num_embeddings
        self.dim = config.dim
        self.sparse = SparseEmbeddings(schema, "user", dim=embedding_dim, device=where)
        self.dense = DenseEmbeddings(len(schema.dense_of("user")), dim=embedding_dim, num_embeddings=_DENSE_EMBEDDINGS)
        num_initial = self.sparse.num_embeddings + self.dense.num_embeddings
        if not num_initial:
            raise ValueError("the schema has no user-side feature; the user tower needs at least one")
        self.pyramid = Pyramid([num_initial * embedding_dim, *config.hidden])
        last = config.hidden[-1] if config.hidden else num_initial * embedding_dim
        self.output = nn.Linear(last, config.num_embeddings * config.dim)

    def forward(self, user_sparse: KeyedJaggedTensor, user_dense: torch.Tensor) -> torch.Tensor:
        """[B, K, D]."""
        initial = torch.cat([self.sparse(user_sparse), self.dense(user_dense)], dim=1)  # [B, N0 + N_dense, d]
        embeddings: torch.Tensor = self.output(self.pyramid(initial.flatten(1)))
        return embeddings.view(-1, self.num_embeddings, self.dim)
