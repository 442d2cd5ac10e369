"""The feature extractors of an interaction module (section 3.2), one class per equation.

Every extractor takes the module's input X [B, N, D] and the dense embeddings X_dense [B, N_dense, D] and gives
[B, M, D]. The paper writes one example with embeddings as columns, X in R^{D x N}; here they are rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them and none after the last."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TokenMix(nn.Module):
    """LC(X) of Eq. 2-3: [B, N, D] -> [B, M, D], each output a learnt weighted sum of the N embeddings."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs))
        nn.init.normal_(self.weight, std=num_inputs**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        return torch.matmul(self.weight, x)


class MlpExtractor(nn.Module):
    """MLP: general nonlinear low-level implicit representations, over all embeddings at once."""

    def __init__(self, num_inputs: int, *, dim: int, num_outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = mlp([num_inputs * dim, *hidden, num_outputs * dim])
        self._shape = (-1, num_outputs, dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        mixed: torch.Tensor = self.layers(x.flatten(1))
        return mixed.view(self._shape)


class DotCompression(nn.Module):
    """Dot compression with attention (Eq. 2-4).

    Y = MLP(Concat(LC(X_dense), LC(X)))     [B, D, M], the attention weights
    Z = MLP'(Concat(LC'(X_dense), LC'(X)))  [B, N, M], the residual branch
    output = X (X^T Y + Z)                  there is no softmax
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        dim: int,
        num_dense: int,
        num_outputs: int,
        compressed: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.attention = _Branch(num_inputs, dim * num_outputs, dim, num_dense, compressed, hidden)
        self.residual = _Branch(num_inputs, num_inputs * num_outputs, dim, num_dense, compressed, hidden)
        self._y = (-1, dim, num_outputs)
        self._z = (-1, num_inputs, num_outputs)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        y = self.attention(x, dense).view(self._y)
        z = self.residual(x, dense).view(self._z)
        scores = torch.baddbmm(z, x, y)  # X^T Y + Z: [B, N, M]
        return torch.bmm(scores.transpose(1, 2), x)  # [B, M, D]


class _Branch(nn.Module):
    """MLP(Concat(LC(X_dense), LC(X))): LC(X_dense) is a fully connected layer, LC(X) a set of weighted sums."""

    def __init__(
        self, num_inputs: int, width: int, dim: int, num_dense: int, compressed: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(num_dense * dim, compressed * dim) if num_dense else None
        self.sparse = TokenMix(num_inputs, compressed)
        self.layers = mlp([compressed * dim * (2 if num_dense else 1), *hidden, width])

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, width]."""
        parts = [] if self.dense is None else [self.dense(dense.flatten(1))]
        result: torch.Tensor = self.layers(torch.cat([*parts, self.sparse(x).flatten(1)], dim=1))
        return result


class DeepCross(nn.Module):
    """Deep cross net (Eq. 5): X_{n+1} = X_0 * (W_n X_n + b_n) + X_n over the flattened embeddings.

    compressed: X_0 is that many weighted sums of the inputs, so that W_n stays (compressed D)^2.
    """

    def __init__(self, num_inputs: int, *, dim: int, num_outputs: int, compressed: int, num_layers: int) -> None:
        super().__init__()
        self.compress = TokenMix(num_inputs, compressed)
        self.layers = nn.ModuleList(nn.Linear(compressed * dim, compressed * dim) for _ in range(num_layers))
        self.output = TokenMix(compressed, num_outputs)
        self._shape = (-1, compressed, dim)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        first = self.compress(x).flatten(1)
        crossed = first
        for layer in self.layers:
            crossed = torch.addcmul(crossed, first, layer(crossed))
        mixed: torch.Tensor = self.output(crossed.view(self._shape))
        return mixed


class MlpMixer(nn.Module):
    """MLP-mixer (Eq. 6-7): token mixing, then channel mixing, each with LayerNorm, ReLU and a residual.

    Y = X + (W_2 ReLU(W_1 LayerNorm(X)))    over the N tokens
    Z = Y + W_4 ReLU(W_3 LayerNorm(Y))      over the D channels
    The M outputs are weighted sums of the N rows of Z.
    """

    def __init__(self, num_inputs: int, *, dim: int, num_outputs: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim)
        self.w1 = nn.Linear(num_inputs, token_hidden, bias=False)
        self.w2 = nn.Linear(token_hidden, num_inputs, bias=False)
        self.channel_norm = nn.LayerNorm(dim)
        self.w3 = nn.Linear(dim, channel_hidden, bias=False)
        self.w4 = nn.Linear(channel_hidden, dim, bias=False)
        self.output = TokenMix(num_inputs, num_outputs)

    def forward(self, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """[B, M, D]."""
        tokens = self.token_norm(x).transpose(1, 2)  # [B, D, N]
        y = x + self.w2(torch.relu(self.w1(tokens))).transpose(1, 2)
        z = y + self.w4(torch.relu(self.w3(self.channel_norm(y))))
        mixed: torch.Tensor = self.output(z)
        return mixed
