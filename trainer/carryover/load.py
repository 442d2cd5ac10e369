"""Takes the tensors of a checkpoint into a model of another shape, at any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.carryover.compare import Comparison, TensorChange
from trainer.increments.load import load_pieces
from trainer.pieces import Piece
from trainer.shards import local_parts, whole_shape

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel


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
        load_pieces(directory, pieces)
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
    for _, local in local_parts(tensor):
        local.zero_()


def _table_pieces(name: str, tensor: Any, change: TensorChange) -> Iterator[Piece]:
    """This rank's rows, or one state per row: row r is the parent's row r mod its rows."""
    old_rows = change.old_shape[0]
    for offsets, local in local_parts(tensor):
        begin = 0
        while begin < local.shape[0]:
            row = (offsets[0] + begin) % old_rows
            count = min(old_rows - row, local.shape[0] - begin)
            yield Piece(
                name=name,
                offsets=(row, *offsets[1:]),
                target=local[begin : begin + count],
                saved_shape=(old_rows, *whole_shape(tensor)[1:]),
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
