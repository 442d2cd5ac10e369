"""A copy of a rank's part of the state, so that training goes on while the copy is written.

The copy lies in memory of its own that is used again for every checkpoint: fresh memory would cost more than the
copy itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.remote_device import _remote_device


class Stager:
    """Copies of nested dicts of tensors and ShardedTensors, on the CPU; other leaves are kept as they are."""

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor | ShardedTensor] = {}
        self._from: list[torch.Tensor] = []
        self._to: list[torch.Tensor] = []

    @torch.no_grad()
    def stage(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `state` as it is now, valid until the next call."""
        self._from, self._to = [], []
        staged: dict[str, Any] = self._staged("", state)
        on_gpu = any(tensor.is_cuda for tensor in self._from)
        if self._to:
            torch._foreach_copy_(self._to, self._from, non_blocking=on_gpu)
        if on_gpu:
            torch.cuda.synchronize()
        self._from, self._to = [], []
        return staged

    def _staged(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._staged(f"{name}/{key}", inner) for key, inner in value.items()}
        if isinstance(value, ShardedTensor):
            return self._sharded(name, value)
        if isinstance(value, torch.Tensor):
            found = self._copies.get(name)
            if found is None or not _fits(found, value):
                found = self._copies[name] = _room_for(value)
            self._queue(value, found)
            return found
        return copy.deepcopy(value)

    def _sharded(self, name: str, value: ShardedTensor) -> ShardedTensor:
        found = self._copies.get(name)
        shards = [shard.tensor for shard in value.local_shards()]
        if not isinstance(found, ShardedTensor) or not _fit(found, shards):
            found = self._copies[name] = _sharded_room_for(value)
        for shard, room in zip(shards, found.local_shards(), strict=True):
            self._queue(shard, room.tensor)
        return found

    def _queue(self, value: torch.Tensor, room: torch.Tensor) -> None:
        self._from.append(value.detach())
        self._to.append(room)


def _fits(room: torch.Tensor | ShardedTensor, value: torch.Tensor) -> bool:
    return not isinstance(room, ShardedTensor) and room.shape == value.shape and room.dtype == value.dtype


def _fit(room: ShardedTensor, shards: list[torch.Tensor]) -> bool:
    rooms = [shard.tensor for shard in room.local_shards()]
    return len(rooms) == len(shards) and all(_fits(*pair) for pair in zip(rooms, shards, strict=True))


def _room_for(value: torch.Tensor) -> torch.Tensor:
    """Contiguous, and page-locked where the value is on a GPU."""
    return torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=value.is_cuda)


def _sharded_room_for(value: ShardedTensor) -> ShardedTensor:
    """The same shards of the same tensor, on the CPU."""
    metadata = copy.deepcopy(value.metadata())
    for shard in metadata.shards_metadata:
        if shard.placement is not None:
            shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")
    offsets = {tuple(shard.shard_offsets): shard for shard in metadata.shards_metadata}
    local = [
        Shard(tensor=_room_for(shard.tensor), metadata=offsets[tuple(shard.metadata.shard_offsets)])
        for shard in value.local_shards()
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            local, sharded_tensor_metadata=metadata, process_group=value._process_group
        )
