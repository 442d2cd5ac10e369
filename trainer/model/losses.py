"""The multi-task weighted cross entropy (Eq. 8), and what may be added to it."""

from __future__ import annotations

from typing import Literal

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


def distance_to_teacher(
    users: torch.Tensor,
    taught: torch.Tensor,
    *,
    distance: Literal["squared", "cosine"],
    weights: torch.Tensor,
    num_examples: torch.Tensor,
) -> torch.Tensor:
    """`1/N sum_i 1/K sum_k d(u_ik, u'_ik)`, a scalar; d is `||u - u'||^2 / D` or `1 - cos(u, u')`.

    users, taught [B, K, D]: u and u'; weights [B], 0 for padding; num_examples: N, a scalar.
    """
    ours, theirs = users.float(), taught.float()
    if distance == "squared":
        apart = (ours - theirs).square().mean(dim=-1)  # [B, K]
    else:
        apart = 1 - functional.cosine_similarity(ours, theirs, dim=-1)
    return (weights @ apart.mean(dim=-1)) / num_examples
