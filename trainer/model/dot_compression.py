"""Dot compression with attention (Eq. 2-4)."""

from __future__ import annotations

import torch
from torch import nn

from trainer import towers
from trainer.model.linear_compression import LinearCompression
from trainer.model.mlp import mlp


class DotCompression(nn.Module):
    """High-level explicit representations: the pairwise dot products of X, compressed by learnt attention.

    Y = MLP(Concat(LC(X_dense), LC(X)))     [B, D, M], the attention weights     (Eq. 2)
    Z = MLP'(Concat(LC'(X_dense), LC'(X)))  [B, N, M], the residual branch       (Eq. 3)
    output = X (X^T Y + Z)                  [B, M, D]; there is no softmax       (Eq. 4)

    The paper's X has embeddings as columns, R^{D x N}; ours as rows, [B, N, D].
    """

    def __init__(self, config: towers.DotCompression, *, num_inputs: int, dim: int, num_dense: int) -> None:
        super().__init__()
        outputs = config.num_outputs
        # X^T Y sums over D, and X (...) over N: these gains keep the output of unit size at the start.
        gain = num_inputs**-0.5
        self.attention = _Branch(config, num_inputs, dim, num_dense, dim * outputs, gain=gain * dim**-0.5)
        self.residual = _Branch(config, num_inputs, dim, num_dense, num_inputs * outputs, gain=gain)
        self._y = (-1, dim, outputs)
        self._z = (-1, num_inputs, outputs)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], dense [B, N_dense, D] -> [B, M, D]."""
        y = self.attention(x, dense).view(self._y)
        z = self.residual(x, dense).view(self._z)
        scores = torch.baddbmm(z, x, y)  # X^T Y + Z: [B, N, M]
        return torch.bmm(scores.transpose(1, 2), x)


class _Branch(nn.Module):
    """MLP(Concat(LC(X_dense), LC(X))): LC(X_dense) is one fully connected layer, LC(X) a set of weighted sums."""

    def __init__(
        self,
        config: towers.DotCompression,
        num_inputs: int,
        dim: int,
        num_dense: int,
        width: int,
        *,
        gain: float,
    ) -> None:
        super().__init__()
        compressed = config.num_compressed * dim
        self.dense = nn.Linear(num_dense * dim, compressed) if num_dense else None
        self.sparse = LinearCompression(num_inputs, config.num_compressed)
        self.layers = mlp([compressed * (2 if num_dense else 1), *config.hidden, width], gain=gain)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, width]."""
        parts = [] if self.dense is None else [self.dense(dense.flatten(1))]
        result: torch.Tensor = self.layers(torch.cat([*parts, self.sparse(x).flatten(1)], dim=1))
        return result
