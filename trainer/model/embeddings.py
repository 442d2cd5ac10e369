"""The initial embedding layers of one side: sparse tables and projected dense features, all of dimension D.

Every embedding leaves with LayerNorm: rows start near zero, and dot products of near-zero vectors have
near-zero gradients. Without it the model spends its first day on that plateau (planted world, 20,000
examples: NE 1.00 against 0.76).
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from features.schema import Schema, Side


def table_configs(schema: Schema, side: Side, *, dim: int) -> list[EmbeddingBagConfig]:
    """One table per schema table that the side uses, `<side>_<table>`: each side owns its copy, so that the
    user tower can be exported alone."""
    used = {feature.table for feature in schema.sparse_of(side)}
    return [
        EmbeddingBagConfig(
            name=f"{side}_{table.name}",
            num_embeddings=table.num_rows,
            embedding_dim=dim,
            feature_names=[f.name for f in schema.sparse_of(side) if f.table == table.name],
            pooling=PoolingType.MEAN,
        )
        for table in schema.tables
        if table.name in used
    ]


@torch.fx.wrap  # a branch that the tracer of TorchRec's pipeline leaves alone
def _in_order(pooled: KeyedTensor, names: list[str]) -> torch.Tensor:
    """The columns of `names`. The sharding plan orders those of `pooled`: only in another order are they copied."""
    columns: torch.Tensor = pooled.values() if pooled.keys() == names else KeyedTensor.regroup([pooled], [names])[0]
    return columns


class SparseEmbeddings(nn.Module):
    """Ids of N features -> [B, N, D], pooled by mean, in schema order whatever the sharding plan.

    normed: with LayerNorm.
    """

    def __init__(self, schema: Schema, side: Side, *, dim: int, device: torch.device, normed: bool = True) -> None:
        super().__init__()
        self._names = [feature.name for feature in schema.sparse_of(side)]
        self._dim = dim
        tables = table_configs(schema, side, dim=dim)
        self.tables = EmbeddingBagCollection(tables=tables, device=device) if tables else None
        self.norm = nn.LayerNorm(dim) if tables and normed else nn.Identity()

    @property
    def num_embeddings(self) -> int:
        """N, one per feature."""
        return len(self._names)

    def forward(self, ids: KeyedJaggedTensor) -> torch.Tensor:
        """[B, N, D]."""
        if self.tables is None:
            return torch.zeros(ids.stride(), 0, self._dim, device=ids.device())
        pooled = self.tables(ids)
        columns = _in_order(pooled, self._names)
        normed: torch.Tensor = self.norm(columns.view(-1, len(self._names), self._dim))
        return normed


class DenseEmbeddings(nn.Module):
    """Dense features [B, M] -> [B, num_embeddings, D]; none when the side has no dense feature."""

    def __init__(self, num_features: int, *, dim: int, num_embeddings: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings if num_features else 0
        self._dim = dim
        if self.num_embeddings:
            self.project = nn.Linear(num_features, self.num_embeddings * dim)
            self.norm = nn.LayerNorm(dim)

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """[B, num_embeddings, D]."""
        if not self.num_embeddings:
            return dense.new_zeros(dense.shape[0], 0, self._dim)
        projected = torch.relu(self.project(dense)).view(-1, self.num_embeddings, self._dim)
        normed: torch.Tensor = self.norm(projected)
        return normed
