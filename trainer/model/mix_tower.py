"""The mix tower (section 3.3): the K user embeddings and the item side -> one logit per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.schema import Schema
from trainer import towers
from trainer.model.embeddings import DenseEmbeddings, SparseEmbeddings
from trainer.model.interaction import Interaction
from trainer.model.linear_compression import LinearCompression
from trainer.model.mlp import mlp


class MixTower(nn.Module):
    """DHEN-style layers over the user and item embeddings, then an MLP.

    It has no user-side input but the user embeddings, so that what is learnt about users lands in them.
    """

    def __init__(
        self,
        schema: Schema,
        config: towers.MixTower,
        *,
        num_user_embeddings: int,
        dim: int,
        num_tasks: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.sparse = SparseEmbeddings(schema, "item", dim=dim, device=device or torch.device("cpu"))
        self.dense = DenseEmbeddings(len(schema.dense_of("item")), dim=dim, num_embeddings=1)
        width = num_user_embeddings + self.sparse.num_embeddings + self.dense.num_embeddings
        self.layers = nn.ModuleList()
        for extractors in config.layers:
            self.layers.append(_Layer(extractors, num_inputs=width, dim=dim, num_dense=self.dense.num_embeddings))
            width = sum(extractor.num_outputs for extractor in extractors)
        widths = [width * dim, *config.hidden]
        self.hidden = nn.Sequential(mlp(widths), nn.ReLU()) if config.hidden else nn.Identity()
        self.output = nn.Linear(widths[-1], num_tasks)

    def forward(self, users: torch.Tensor, item_sparse: KeyedJaggedTensor, item_dense: torch.Tensor) -> torch.Tensor:
        """users [B, K, D] -> logits [B, T]."""
        logits: torch.Tensor = self.output(self.represent(users, item_sparse, item_dense))
        return logits

    def represent(self, users: torch.Tensor, item_sparse: KeyedJaggedTensor, item_dense: torch.Tensor) -> torch.Tensor:
        """users [B, K, D] -> [B, E]: what all tasks are predicted from, the last hidden layer."""
        dense = self.dense(item_dense)
        x = torch.cat([users, self.sparse(item_sparse), dense], dim=1)  # [B, K + N, D]
        for layer in self.layers:
            x = layer(x, dense)
        hidden: torch.Tensor = self.hidden(x.flatten(1))
        return hidden


class _Layer(nn.Module):
    """One layer of DHEN: `Norm(Concat(extractors(X)) + ShortCut(X))`, the shortcut a linear compression."""

    def __init__(self, extractors: Sequence[towers.Extractor], *, num_inputs: int, dim: int, num_dense: int) -> None:
        super().__init__()
        self.interaction = Interaction(extractors, num_inputs=num_inputs, dim=dim, num_dense=num_dense)
        self.shortcut = LinearCompression(num_inputs, sum(extractor.num_outputs for extractor in extractors))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, N, D] -> [B, M, D]."""
        normed: torch.Tensor = self.norm(self.interaction(x, dense) + self.shortcut(x))
        return normed
