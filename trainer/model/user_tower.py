"""The user tower (section 3.2): everything known about a user -> K embeddings of dimension D."""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.schema import Schema
from trainer import towers
from trainer.model.embeddings import DenseEmbeddings, SparseEmbeddings
from trainer.model.interaction import InteractionModule

LARGEST = 2.0
"""Root mean square that no embedding exceeds."""


class UserTower(nn.Module):
    """N_0 initial embeddings, a pyramid of interaction modules (Eq. 1), a linear layer to K outputs of bounded length.

    device: where the tables are built; `meta` when they are sharded or loaded afterwards.
    """

    def __init__(self, schema: Schema, config: towers.UserTower, *, device: torch.device | None = None) -> None:
        super().__init__()
        self.num_embeddings = config.num_embeddings
        self.dim = config.dim
        self.sparse = SparseEmbeddings(schema, "user", dim=config.dim, device=device or torch.device("cpu"))
        self.dense = DenseEmbeddings(len(schema.dense_of("user")), dim=config.dim, num_embeddings=config.num_dense)
        num_dense = self.dense.num_embeddings
        widths = [self.sparse.num_embeddings + num_dense]
        if not widths[0]:
            raise ValueError("the schema has no user-side feature; the user tower needs at least one")
        widths += [module.num_outputs + num_dense for module in config.modules]
        self.levels = nn.ModuleList(
            InteractionModule(module, num_inputs=width, dim=config.dim, num_dense=num_dense)
            for module, width in zip(config.modules, widths, strict=False)
        )
        self.output = nn.Linear(widths[-1] * config.dim, config.num_embeddings * config.dim)

    def forward(self, user_sparse: KeyedJaggedTensor, user_dense: torch.Tensor) -> torch.Tensor:
        """[B, K, D]."""
        return self.compress(self.sparse(user_sparse), self.dense(user_dense))

    def compress(self, sparse: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """The pyramid: initial embeddings [B, N_0, D] and [B, N_dense, D] -> [B, K, D]."""
        x = torch.cat([sparse, dense], dim=1)  # X_0
        for level in self.levels:
            x = level(x, dense)
        embeddings = self.output(x.flatten(1)).view(-1, self.num_embeddings, self.dim)
        return bounded(embeddings)


def bounded(x: torch.Tensor) -> torch.Tensor:
    """x / sqrt(1 + mean(x^2) / LARGEST^2) over D: short vectors stay as they are, none is longer than LARGEST sqrt(D).

    The mix tower normalises what it sees, so that nothing else holds the length: it grew by half every day.
    """
    scale = torch.rsqrt(1 + x.square().mean(dim=-1, keepdim=True) / LARGEST**2)
    bound: torch.Tensor = x * scale
    return bound
