"""Loads the state of a checkpoint, whichever form it has: the one way in for everything that reads tensors."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from trainer.checkpoint import base_path, load_shards, saved_names
from trainer.increments.rows import apply_rows
from trainer.pieces import Piece, pieces_of, read_pieces


def load_state(directory: Path, state: dict[str, Any], *, no_dist: bool = False) -> None:
    """Fill the tensors of `state` in place, at any number of ranks and any plan; `verify` the directory first.

    What an increment's own shards lack is its base's, with the increment's rows over it. A collective unless
    `no_dist`. RuntimeError for a tensor that is not there, or has another shape.
    """
    if base_path(directory) is None:
        load_shards(directory, state, no_dist=no_dist)
        return
    own = saved_names(directory)
    elsewhere = {name: tensor for name, tensor in tensors_of(state) if name not in own}
    rest = without(state, elsewhere)
    load_shards(directory, rest, no_dist=no_dist)
    _put_back(state, rest)
    load_pieces(directory, [piece for name in elsewhere for piece in pieces_of(name, elsewhere[name])], no_dist=no_dist)


def load_pieces(directory: Path, pieces: Sequence[Piece], *, no_dist: bool = False) -> None:
    """As `load_state`, piece by piece."""
    base = base_path(directory)
    if base is None:
        read_pieces(directory, pieces, no_dist=no_dist)
        return
    own = saved_names(directory)
    read_pieces(directory, [piece for piece in pieces if piece.name in own], no_dist=no_dist)
    elsewhere = [piece for piece in pieces if piece.name not in own]
    read_pieces(base, elsewhere, no_dist=no_dist)
    apply_rows(directory, elsewhere)


def tensors_of(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name in a checkpoint, tensor) of nested dicts."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from tensors_of(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor | ShardedTensor):
            yield f"{prefix}{key}", value


def without(state: Mapping[str, Any], names: Container[str], prefix: str = "") -> dict[str, Any]:
    """A copy of the dicts, not of what they hold, without the tensors `names`, and without dicts that are empty then:
    DCP takes an empty one for a value."""
    kept: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping) and value:
            if inner := without(value, names, f"{prefix}{key}."):
                kept[key] = inner
        elif f"{prefix}{key}" not in names:
            kept[key] = value
    return kept


def _put_back(state: dict[str, Any], loaded: Mapping[str, Any]) -> None:
    """Values that are no tensors are not loaded in place."""
    for key, value in loaded.items():
        if isinstance(value, Mapping) and isinstance(state[key], dict):
            _put_back(state[key], value)
        else:
            state[key] = value
