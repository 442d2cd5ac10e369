"""Rectangles of a checkpoint's tensors, read whatever shards they were written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainer.checkpoint import load_shards
from trainer.shards import local_parts, whole_shape


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A rectangle of a saved tensor and the memory that it is read into, of the same shape."""

    name: str
    """In the checkpoint."""
    offsets: tuple[int, ...]
    target: torch.Tensor
    saved_shape: tuple[int, ...]
    """Of the whole tensor. RuntimeError where the checkpoint holds another."""


def pieces_of(name: str, tensor: Any) -> Iterator[Piece]:
    """What of a tensor lies on this rank."""
    for offsets, part in local_parts(tensor):
        yield Piece(name=name, offsets=offsets, target=part, saved_shape=whole_shape(tensor))


def read_pieces(directory: Path, pieces: Sequence[Piece], *, no_dist: bool = False) -> None:
    """Fill them from the directory's own shards. A collective unless `no_dist`."""
    load_shards(directory, {}, planner=_PieceReader(pieces), no_dist=no_dist)


class _PieceReader(DefaultLoadPlanner):
    """No rank reads more than its own pieces and, at a time, one saved shard."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._pieces = pieces

    def create_local_plan(self) -> LoadPlan:
        """The reads of this rank. A piece is found again by its place in the list."""
        assert self.metadata is not None
        items = []
        for i, piece in enumerate(self._pieces):
            saved = self.metadata.state_dict_metadata.get(piece.name)
            if not isinstance(saved, TensorStorageMetadata) or tuple(saved.size) != piece.saved_shape:
                found = tuple(saved.size) if isinstance(saved, TensorStorageMetadata) else "none"
                raise ValueError(f"{piece.name} is {piece.saved_shape} by the model, the state holds {found}")
            chunk = ChunkStorageMetadata(torch.Size(piece.offsets), piece.target.size())
            for item in create_read_items_for_chunk_list(piece.name, saved, [chunk]):
                index = MetadataIndex(piece.name, item.dest_index.offset, i)
                items.append(type(item)(**{**vars(item), "dest_index": index}))
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """The piece's memory."""
        assert index.index is not None
        return self._pieces[index.index].target
