"""Pairwise dot products, the interaction of DLRM, which DHEN's layers ensemble with others (section 3.3)."""

from __future__ import annotations

import torch
from torch import nn

from trainer import towers


class Dots(nn.Module):
    """[B, N, D] -> [B, N (N - 1) / 2]: the dot products of all pairs of N vectors."""

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1, device="cpu")
        self.num_pairs = len(rows)
        self.register_buffer("_pairs", rows * num_vectors + columns, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, num_pairs]."""
        return torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, self.get_buffer("_pairs"))


class PairwiseDots(nn.Module):
    """The dot products of all pairs of embeddings, projected to embeddings."""

    def __init__(self, config: towers.PairwiseDots, *, num_inputs: int, dim: int) -> None:
        super().__init__()
        self.dots = Dots(num_inputs)
        self.project = nn.Linear(self.dots.num_pairs, config.num_outputs * dim)
        self._scale = dim**-0.5
        self._shape = (-1, config.num_outputs, dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], dense [B, N_dense, D] (not used: x holds them) -> [B, M, D]."""
        mixed: torch.Tensor = self.project(self.dots(x) * self._scale)
        return mixed.view(self._shape)
