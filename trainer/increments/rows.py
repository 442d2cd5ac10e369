"""The rows of an increment: one safetensors file per rank, applied to whatever shards they are loaded into.

A file holds, per table and shard that its rank had, `<weights>/<first row>`: the global numbers of the touched rows,
ascending; and `<weights>/<first row>/<first column>/<tensor>`: those rows of the weights and of every state of their
optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer.checkpoint import ROWS, fsync, rows_file
from trainer.increments.touched import Rows, Touched
from trainer.pieces import Piece
from trainer.shards import local_parts


class TableTensor(NamedTuple):
    """The weights of a table, or a state of its optimizer: a row of it belongs to a row of the table."""

    name: str
    """In a checkpoint."""
    weights: str
    """Of the table, in the model."""
    tensor: Any


def save_rows(directory: Path, tensors: Iterable[TableTensor], touched: Touched, *, rank: int) -> None:
    """Write this rank's part of the touched rows, and have it on the disk."""
    content: dict[str, torch.Tensor] = {}
    for name, weights, tensor in tensors:
        for offsets, part in local_parts(tensor):
            begin, column = offsets[0], offsets[1] if len(offsets) > 1 else 0
            rows = torch.from_numpy(touched.rows(weights, begin=begin, end=begin + part.shape[0]))
            content[f"{weights}/{begin}"] = rows.to(_type_of(rows))
            local = (rows - begin).to(part.device)
            content[f"{weights}/{begin}/{column}/{name}"] = part.detach().index_select(0, local).cpu()
    path = directory / ROWS / rows_file(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, path)
    fsync(path)


def _type_of(rows: torch.Tensor) -> torch.dtype:
    return torch.int32 if not rows.numel() or int(rows[-1]) <= torch.iinfo(torch.int32).max else torch.int64


def apply_rows(directory: Path, pieces: Iterable[Piece]) -> None:
    """Put the rows of the increment in `directory` over those of its base, in the memory of `pieces`."""
    wanted: dict[str, list[Piece]] = {}
    for piece in pieces:
        wanted.setdefault(piece.name, []).append(piece)
    for path in _files(directory):
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                weights, begin, *of = key.split("/")
                if of and of[1] in wanted:
                    rows = file.get_tensor(f"{weights}/{begin}").numpy()
                    for piece in wanted[of[1]]:
                        _apply(file.get_slice(key), rows, piece, column=int(of[0]))


def _apply(values: Any, rows: Rows, piece: Piece, *, column: int) -> None:
    """values: [rows] or [rows, columns from `column` on]."""
    target, begin = piece.target.detach(), piece.offsets[0]
    first, last = np.searchsorted(rows, [begin, begin + target.shape[0]]).tolist()
    if first == last:
        return
    local = torch.from_numpy(rows[first:last].astype(np.int64) - begin).to(target.device)
    if target.dim() == 1:
        target.index_copy_(0, local, values[first:last].to(target.device))
        return
    low = max(column, piece.offsets[1])
    high = min(column + values.get_shape()[1], piece.offsets[1] + target.shape[1])
    if low < high:
        columns = target[:, low - piece.offsets[1] : high - piece.offsets[1]]
        columns.index_copy_(0, local, values[first:last, low - column : high - column].to(target.device))


def saved_rows(directory: Path, *, part: int = 0, parts: int = 1) -> Iterator[tuple[str, Rows]]:
    """(name of the weights, rows) of an increment; with `parts` ranks, each reads its share of the files."""
    for path in _files(directory)[part::parts]:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.count("/") == 1:
                    yield key.split("/")[0], file.get_tensor(key).numpy()


def _files(directory: Path) -> list[Path]:
    return sorted((directory / ROWS).glob("*.safetensors"))
