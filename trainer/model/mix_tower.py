"""The mix tower (section 3.3): the K user embeddings and the item side -> one logit per task."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.schema import Schema
from trainer import recipe
from trainer.model.embeddings import DenseEmbeddings, SparseEmbeddings


class MixTower(nn.Module):
    """Pairwise dot products of user and item embeddings beside the embeddings themselves, then an MLP.

    It has no user-side input but the user embeddings, so that what is learnt about users lands in them.
    """

    def __init__(
        self,
        schema: Schema,
        config: recipe.MixTower,
        *,
        user_embeddings: int,
        user_dim: int,
        embedding_dim: int,
        num_tasks: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        where = device or torch.device("cpu")
        self.sparse = SparseEmbeddings(schema, "item", dim=embedding_dim, device=where)
        self.dense = DenseEmbeddings(len(schema.dense_of("item")), dim=embedding_dim, num_embeddings=1)
        self.widen = nn.Linear(embedding_dim, user_dim)
        num_embeddings = user_embeddings + self.sparse.num_embeddings + self.dense.num_embeddings
        rows, columns = torch.tril_indices(num_embeddings, num_embeddings, offset=-1)
        self.register_buffer("_pairs", rows * num_embeddings + columns, persistent=False)
        widths = [num_embeddings * user_dim + len(rows), *config.hidden]
        layers = [(nn.Linear(wide, narrow), nn.ReLU()) for wide, narrow in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*itertools.chain.from_iterable(layers))
        self.output = nn.Linear(widths[-1], num_tasks)
        self._scale = user_dim**-0.5

    def forward(self, users: torch.Tensor, item_sparse: KeyedJaggedTensor, item_dense: torch.Tensor) -> torch.Tensor:
        """users [B, K, D] -> logits [B, T]."""
        items = torch.cat([self.sparse(item_sparse), self.dense(item_dense)], dim=1)  # [B, N, d]
        everything = torch.cat([users, self.widen(items)], dim=1)  # [B, K + N, D]
        dots = torch.bmm(everything, everything.transpose(1, 2)) * self._scale
        pairs = dots.flatten(1).index_select(1, self.get_buffer("_pairs"))
        logits: torch.Tensor = self.output(self.layers(torch.cat([everything.flatten(1), pairs], dim=1)))
        return logits

    @torch.no_grad()
    def set_prior(self, rates: torch.Tensor) -> None:
        """Begin from the log-odds of the tasks' positive rates [T] instead of from 1/2."""
        self.output.bias.copy_(torch.logit(rates.clamp(1e-4, 1 - 1e-4)))
