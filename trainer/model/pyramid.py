"""Layers that narrow step by step, each with a residual branch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class Pyramid(nn.Module):
    """[B, widths[0]] -> [B, widths[-1]]: `h <- ReLU(W h + b) + R h` at every width, R the residual branch."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.levels = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in pairs)
        self.residuals = nn.ModuleList(nn.Linear(wide, narrow, bias=False) for wide, narrow in pairs)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """[B, widths[-1]]."""
        for level, residual in zip(self.levels, self.residuals, strict=True):
            h = torch.relu(level(h)) + residual(h)
        return h
