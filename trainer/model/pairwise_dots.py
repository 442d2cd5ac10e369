"""Pairwise dot products, the interaction of DLRM, which DHEN's layers ensemble with others (section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer import towers


class _Dots(torch.autograd.Function):
    """Picks pairs out of X X^T. Its gradient is (G + G^T) X: one product, where autograd would take two."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pairs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, places)
        return torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, places = ctx.saved_tensors
        num_vectors = x.shape[1]
        g = gradients[0].index_select(1, places).view(-1, num_vectors, num_vectors)
        g.diagonal(dim1=1, dim2=2).zero_()
        return torch.bmm(g, x), None, None


@torch.fx.wrap
def _dots(x: torch.Tensor, pairs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    dots: torch.Tensor = _Dots.apply(x, pairs, places)  # type: ignore[no-untyped-call]
    return dots


class Dots(nn.Module):
    """[B, N, D] -> [B, N (N - 1) / 2]: the dot products of all pairs of N vectors."""

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1, device="cpu")
        self.num_pairs = len(rows)
        places = torch.zeros(num_vectors, num_vectors, dtype=torch.int64, device="cpu")
        places[rows, columns] = places[columns, rows] = torch.arange(self.num_pairs, device="cpu")
        self.register_buffer("_pairs", rows * num_vectors + columns, persistent=False)
        self.register_buffer("_places", places.flatten(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, num_pairs]."""
        return _dots(x, self.get_buffer("_pairs"), self.get_buffer("_places"))


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
