"""The MLP-mixer (Eq. 6-7)."""

from __future__ import annotations

import torch
from torch import nn

from trainer import towers
from trainer.model.linear_compression import LinearCompression


class MlpMixer(nn.Module):
    """Token mixing, then channel mixing, each with LayerNorm, ReLU and a residual.

    Y = X + W_2 ReLU(W_1 LayerNorm(X))^T    over the N embeddings (Eq. 6)
    Z = Y + W_4 ReLU(W_3 LayerNorm(Y))      over the D channels   (Eq. 7)

    The outputs are weighted sums of the N rows of Z.
    """

    def __init__(self, config: towers.MlpMixer, *, num_inputs: int, dim: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.w1 = nn.Linear(num_inputs, config.token_hidden, bias=False)
        self.w2 = nn.Linear(config.token_hidden, num_inputs, bias=False)
        self.channel_norm = nn.LayerNorm(dim)
        self.w3 = nn.Linear(dim, config.channel_hidden, bias=False)
        self.w4 = nn.Linear(config.channel_hidden, dim, bias=False)
        self.output = LinearCompression(num_inputs, config.num_outputs)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], dense [B, N_dense, D] (not used: x holds them) -> [B, M, D]."""
        tokens = self.token_norm(x).transpose(1, 2)  # [B, D, N]
        y = x + self.w2(torch.relu(self.w1(tokens))).transpose(1, 2)
        z = y + self.w4(torch.relu(self.w3(self.channel_norm(y))))
        mixed: torch.Tensor = self.output(z)
        return mixed
