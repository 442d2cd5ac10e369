"""The multi-task weighted cross entropy (Eq. 8)."""

from __future__ import annotations

import torch
from torch.nn import functional


def weighted_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    task_weights: torch.Tensor,
    weights: torch.Tensor,
    num_examples: torch.Tensor,
) -> torch.Tensor:
    """Eq. 8: `-1/N sum_i sum_t w_t (y log p + (1 - y) log(1 - p))`, a scalar.

    logits, labels [B, T]; task_weights [T]; weights [B], 0 for padding; num_examples: N, a scalar.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # [B, T]
    return (weights @ losses @ task_weights) / num_examples
