"""A batch with what the teacher says of its users."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from features.batches import Batch


@dataclass(kw_only=True)
class TaughtBatch(Batch):
    """Made where the batch is computed, after it was moved there."""

    taught: torch.Tensor
    """[B, K, D]: the users' embeddings by the parent's user tower."""
