"""Pairwise dot products, the interaction of DLRM, which DHEN's layers ensemble with others (section 3.3)."""

from __future__ import annotations

import torch
from torch import nn

from trainer import towers


class PairwiseDots(nn.Module):
    """The dot products of all pairs of embeddings, projected to embeddings."""

    def __init__(self, config: towers.PairwiseDots, *, num_inputs: int, dim: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(num_inputs, num_inputs, offset=-1, device="cpu")
        self.register_buffer("_pairs", rows * num_inputs + columns, persistent=False)
        self.project = nn.Linear(len(rows), config.num_outputs * dim)
        self._scale = dim**-0.5
        self._shape = (-1, config.num_outputs, dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], dense [B, N_dense, D] (not used: x holds them) -> [B, M, D]."""
        dots = torch.bmm(x, x.transpose(1, 2)) * self._scale
        pairs = dots.flatten(1).index_select(1, self.get_buffer("_pairs"))
        mixed: torch.Tensor = self.project(pairs)
        return mixed.view(self._shape)
