"""The deep cross net (Eq. 5)."""

from __future__ import annotations

import torch
from torch import nn

from trainer import towers
from trainer.model.linear_compression import LinearCompression


class DeepCross(nn.Module):
    """Stacked cross layers, `X_{n+1} = X_0 * (W_n X_n + b_n) + X_n` over the flattened embeddings.

    X_0 is a linear compression of the input, so that W_n stays small; the outputs are weighted sums of the last X.
    """

    def __init__(self, config: towers.DeepCross, *, num_inputs: int, dim: int) -> None:
        super().__init__()
        width = config.num_compressed * dim
        self.compress = LinearCompression(num_inputs, config.num_compressed)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        self.output = LinearCompression(config.num_compressed, config.num_outputs)
        self._shape = (-1, config.num_compressed, dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], dense [B, N_dense, D] (not used: x holds them) -> [B, M, D]."""
        first = self.compress(x).flatten(1)
        crossed = first
        for layer in self.layers:
            crossed = torch.addcmul(crossed, first, layer(crossed))
        mixed: torch.Tensor = self.output(crossed.view(self._shape))
        return mixed
