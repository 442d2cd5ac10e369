"""The part of a tensor that lies on this rank."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor


def local_parts(tensor: Any) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """(offsets within the whole, memory) of every rectangle; a plain tensor is one, whole."""
    if isinstance(tensor, ShardedTensor):
        return [(tuple(shard.metadata.shard_offsets), shard.tensor) for shard in tensor.local_shards()]
    return [((0,) * tensor.dim(), tensor)]


def whole_shape(tensor: Any) -> tuple[int, ...]:
    """Of all parts of all ranks together."""
    return tuple(tensor.metadata().size if isinstance(tensor, ShardedTensor) else tensor.shape)
