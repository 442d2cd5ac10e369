"""Whether two checkpoints hold the same bits, whatever ranks and hosts wrote them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.checkpoint import STATE, load_shards


def apart(one: Path, other: Path) -> tuple[str, ...]:
    """Names of the weights and optimizer states that differ in a bit, or that only one checkpoint has."""
    ours, theirs = _tensors(one), _tensors(other)
    common = ours.keys() & theirs.keys()
    return tuple(
        sorted({name for name in common if not _same(ours[name], theirs[name])} | (ours.keys() ^ theirs.keys()))
    )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    stored = FileSystemReader(directory / STATE).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(of.size, dtype=of.properties.dtype)
        for name, of in stored.items()
        if isinstance(of, TensorStorageMetadata)
    }
    load_shards(directory, state, no_dist=True)
    return state
