"""The downstream model: a small DLRM, which can take the pooled user embeddings as further vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.schema import SparseFeature, Table
from trainer.model.mlp import mlp
from trainer.model.pairwise_dots import Dots
from trainer.recipe import Optimizer


@dataclass(frozen=True, kw_only=True)
class Layout:
    """F sparse features, M dense ones, table rows of E; K user embeddings of D from U user models (K = 0: none)."""

    tables: tuple[Table, ...]
    sparse: tuple[SparseFeature, ...]
    """Features of one table stand together: the lookup kernel counts on it."""
    num_dense: int
    dim: int
    hidden: tuple[int, ...]
    num_embeddings: int = 0
    embedding_dim: int = 0
    """The longest user model's; shorter vectors end in zeros."""
    num_upstreams: int = 0

    @property
    def num_vectors(self) -> int:
        """N: one vector per sparse feature, and one for the dense side if there is any."""
        return len(self.sparse) + (1 if self.num_dense else 0)


class Dlrm(nn.Module):
    """Pooled lookups and a bottom MLP give N vectors of E; their pairwise dot products feed the top MLP.

    With K user embeddings, each is scaled to one norm (snapshots differ in the norms they have reached more
    than in directions) and projected linearly to E. Its dot products with all N + K vectors and the flag
    `has_embedding` join the input of the top MLP through weights that begin at zero: two models of one seed,
    with and without embeddings, begin as the same function.
    """

    def __init__(self, layout: Layout, *, optimizer: Optimizer, seed: int) -> None:
        super().__init__()
        self.layout = layout
        n, k = layout.num_vectors, layout.num_embeddings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tables = _tables(layout, optimizer)
            self.bottom = mlp([layout.num_dense, *layout.hidden, layout.dim]) if layout.num_dense else None
            num_dots = n * (n - 1) // 2 + (layout.dim if layout.num_dense else 0)
            self.entry = nn.Linear(num_dots, layout.hidden[0])
            self.top = nn.Sequential(nn.ReLU(), mlp([*layout.hidden, 1]))
            if k:
                self.projection = nn.Parameter(torch.empty(k, layout.embedding_dim, layout.dim))
                nn.init.normal_(self.projection, std=layout.embedding_dim**-0.5)
                self.join = nn.Linear(k * (n + k) + layout.num_upstreams, layout.hidden[0], bias=False)
                nn.init.zeros_(self.join.weight)
        self.dots = Dots(n)

    @torch.no_grad()
    def start_at(self, rate: float) -> None:
        """Begin with predictions about the rate of positives, which lies in (0, 1)."""
        last = [layer for layer in self.top.modules() if isinstance(layer, nn.Linear)][-1]
        last.bias.fill_(math.log(rate / (1 - rate)))

    def forward(
        self, sparse: KeyedJaggedTensor, dense: torch.Tensor, users: torch.Tensor, has_embedding: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B]; sparse: keys as in the layout, dense [B, M], users [B, K, D], has_embedding [B, U]."""
        size = dense.shape[0]
        pooled = self.tables(sparse.values(), sparse.offsets()).view(size, -1, self.layout.dim)  # [B, F, E]
        if self.bottom is None:
            vectors = pooled
        else:
            bottom = self.bottom(dense)  # [B, E]
            vectors = torch.cat([bottom.unsqueeze(1), pooled], dim=1)  # [B, N, E]
        dots = self.dots(vectors)
        hidden = self.entry(dots if self.bottom is None else torch.cat([bottom, dots], dim=1))
        if self.layout.num_embeddings:
            directions = nn.functional.normalize(users, dim=2) * self.layout.embedding_dim**0.5  # zeros stay
            projected = torch.bmm(directions.transpose(0, 1), self.projection).transpose(0, 1)  # [B, K, E]
            together = torch.cat([vectors, projected], dim=1)  # [B, N + K, E]
            joined = torch.bmm(projected, together.transpose(1, 2)).view(size, -1)  # [B, K (N + K)]
            hidden = hidden + self.join(torch.cat([joined, has_embedding], dim=1))
        logits: torch.Tensor = self.top(hidden).squeeze(1)
        return logits


def _tables(layout: Layout, optimizer: Optimizer) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Every table in one lookup kernel, mean-pooled, row-wise Adagrad in backward."""
    names = [table.name for table in layout.tables]
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[
            (table.num_rows, layout.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for table in layout.tables
        ],
        feature_table_map=[names.index(feature.table) for feature in layout.sparse],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=optimizer.sparse_lr,
        eps=optimizer.epsilon,
        pooling_mode=PoolingMode.MEAN,
        device=torch.device("cpu"),
    )
    for weights in tables.split_embedding_weights():
        nn.init.uniform_(weights, -(layout.dim**-0.5), layout.dim**-0.5)
    return tables
