"""Takes the tensors of a checkpoint into a model of another shape, at any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainer.carryover.compare import Comparison, TensorChange
from trainer.checkpoint import load_state

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A rectangle of a saved tensor and the memory that it is read into, of the same shape."""

    name: str
    """In the checkpoint."""
    offsets: tuple[int, ...]
    target: torch.Tensor
    saved_shape: tuple[int, ...]
    """Of the whole tensor. RuntimeError where the checkpoint holds another."""


class _PieceReader(DefaultLoadPlanner):
    """Reads pieces whatever shards the checkpoint was written in. No rank reads more than its own pieces and, at a
    time, one saved shard."""

    def __init__(self, pieces: list[Piece]) -> None:
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
                raise ValueError(f"{piece.name} is {piece.saved_shape} by model.json, the state holds {found}")
            chunk = ChunkStorageMetadata(torch.Size(piece.offsets), piece.target.size())
            for item in create_read_items_for_chunk_list(piece.name, saved, [chunk]):
                index = MetadataIndex(piece.name, item.dest_index.offset, i)
                items.append(type(item)(**{**vars(item), "dest_index": index}))
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """The piece's memory."""
        assert index.index is not None
        return self._pieces[index.index].target


def carry_over(sharded: ShardedModel, directory: Path, comparison: Comparison) -> None:
    """Fill `sharded`, which holds its initial weights, with what `comparison` says. A collective.

    What starts fresh keeps its initial weights, and its optimizer's state is that of step 0.
    """
    # Tensors to load into; it counts as a step of Adam, which the fresh ones take back.
    sharded.dense.init_state()
    state = sharded.state_dict()
    pieces: list[Piece] = []
    copies: list[tuple[torch.Tensor, torch.Tensor, TensorChange]] = []
    with torch.no_grad():
        for change in comparison.tensors:
            if change.outcome == "dropped":
                continue
            for name, tensor, is_state in _tensors_of(state, change):
                kept = comparison.carries_table_state if change.is_table else comparison.carries_dense_state
                if change.outcome == "fresh" or (is_state and not kept):
                    if is_state:
                        _reset(tensor)
                elif change.is_table:
                    pieces += _table_pieces(name, tensor, change)
                elif change.outcome == "carried" or tensor.dim() == 0:
                    shape = tuple(tensor.shape)
                    pieces.append(Piece(name=name, offsets=(0,) * len(shape), target=tensor, saved_shape=shape))
                else:
                    whole = torch.empty(change.old_shape, dtype=tensor.dtype)
                    offsets = (0,) * whole.dim()
                    pieces.append(Piece(name=name, offsets=offsets, target=whole, saved_shape=change.old_shape))
                    copies.append((whole, tensor, change))
        load_state(directory, {}, planner=_PieceReader(pieces))
        for whole, tensor, change in copies:
            _copy_spans(whole, tensor, change)
    sharded.module.load_state_dict(state["model"])
    sharded.optimizer.load_state_dict(state["optim"])


def _tensors_of(state: Mapping[str, Any], change: TensorChange) -> Iterator[tuple[str, Any, bool]]:
    """(name in the checkpoint, tensor, whether it is the optimizer's) of a weight and of all that belongs to it."""
    yield f"model.{change.name}", state["model"][change.name], False
    parameter = change.name if change.is_table else f"dense.{change.name}"
    for key, tensor in state["optim"]["state"].get(parameter, {}).items():
        yield f"optim.state.{parameter}.{key}", tensor, True


def _reset(tensor: Any) -> None:
    """The state of step 0: zeros, for every optimizer that a recipe can name."""
    for local in _local(tensor):
        local.zero_()


def _local(tensor: Any) -> list[torch.Tensor]:
    return [s.tensor for s in tensor.local_shards()] if isinstance(tensor, ShardedTensor) else [tensor]


def _table_pieces(name: str, tensor: Any, change: TensorChange) -> Iterator[Piece]:
    """This rank's rows, or one state per row: row r is the parent's row r mod its rows."""
    old_rows = change.old_shape[0]
    if isinstance(tensor, ShardedTensor):
        shape = tuple(tensor.metadata().size)
        parts = [(tuple(shard.metadata.shard_offsets), shard.tensor) for shard in tensor.local_shards()]
    else:
        shape = tuple(tensor.shape)
        parts = [((0,) * tensor.dim(), tensor)]
    for offsets, local in parts:
        begin = 0
        while begin < local.shape[0]:
            row = (offsets[0] + begin) % old_rows
            count = min(old_rows - row, local.shape[0] - begin)
            yield Piece(
                name=name,
                offsets=(row, *offsets[1:]),
                target=local[begin : begin + count],
                saved_shape=(old_rows, *shape[1:]),
            )
            begin += count


def _copy_spans(whole: torch.Tensor, tensor: torch.Tensor, change: TensorChange) -> None:
    rows, *columns = change.spans
    for old_row, row, num_rows in rows:
        source, target = whole[old_row : old_row + num_rows], tensor[row : row + num_rows]
        if not columns:
            target.copy_(source)
        for old_column, column, num_columns in columns[0] if columns else ():
            target[:, column : column + num_columns].copy_(source[:, old_column : old_column + num_columns])
