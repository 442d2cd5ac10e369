"""LC(X) of Eq. 2-3: a set of weighted sums of embeddings."""

from __future__ import annotations

import torch
from torch import nn


class LinearCompression(nn.Module):
    """[B, N, D] -> [B, M, D]: each output a learnt weighted sum of the N embeddings."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: sums of unit embeddings are of unit size."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        return torch.matmul(self.weight, x)
