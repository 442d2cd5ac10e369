"""A sample of a day's examples in memory, one feature of which can be permuted across all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.lake import Lake, Partition
from features.selection import Selection
from features.windows import examples_of

CHUNK_ROWS = 2048
"""Rows per forward pass: bounds memory where a model is wide."""


def sample_rows(
    lake: Lake, partition: Partition, *, columns: list[str], num_rows: int, seed: int, where: Sequence[Selection] = ()
) -> pa.Table:
    """`num_rows` of the examples that `where` selects, drawn without replacement (all, if there are no more), in the
    day's order.

    Reads the partition once, row group by row group. ValueError where there are none.
    """
    if num_rows < 1:
        raise ValueError(f"{num_rows} rows are to be sampled; give at least one (--rows)")
    pieces = examples_of(lake, partition, where)
    starts = np.cumsum([0, *(piece.num_rows for piece in pieces)])
    drawn = np.sort(np.random.default_rng(seed).permutation(starts[-1])[:num_rows])
    parts = []
    for piece, start in zip(pieces, starts, strict=False):
        first, last = np.searchsorted(drawn, [start, start + piece.num_rows])
        if last > first:
            parts.append(piece.read(columns).take(pa.array(drawn[first:last] - start)))
    return pa.concat_tables(parts).combine_chunks()


def chunks_of(rows: pa.Table) -> list[pa.Table]:
    """`rows` in pieces of CHUNK_ROWS."""
    return [rows.slice(start, CHUNK_ROWS) for start in range(0, rows.num_rows, CHUNK_ROWS)]


def permute_dense(chunks: Sequence[torch.Tensor], column: int, order: torch.Tensor) -> list[torch.Tensor]:
    """Chunks [B, M] with row i of their concatenation given `column` of row order[i]."""
    values = torch.cat([chunk[:, column] for chunk in chunks])[order]
    permuted = []
    for chunk, part in zip(chunks, torch.split(values, [len(chunk) for chunk in chunks]), strict=True):
        changed = chunk.clone()
        changed[:, column] = part
        permuted.append(changed)
    return permuted


def permute_sparse(chunks: Sequence[KeyedJaggedTensor], name: str, order: torch.Tensor) -> list[KeyedJaggedTensor]:
    """Chunks with row i of their concatenation given the ids of feature `name` in row order[i]."""
    index = chunks[0].keys().index(name)
    parts = [_part(chunk, index) for chunk in chunks]
    lengths = torch.cat([part[0] for part in parts]).long()
    values = torch.cat([part[1] for part in parts])
    starts = lengths.cumsum(0) - lengths
    new_lengths = lengths[order]
    new_starts = new_lengths.cumsum(0) - new_lengths
    new_values = values[
        torch.repeat_interleave(starts[order] - new_starts, new_lengths) + torch.arange(int(new_lengths.sum()))
    ]
    of_chunks = torch.split(new_lengths, [chunk.stride() for chunk in chunks])
    sizes = [int(part.sum()) for part in of_chunks]
    return [
        _replaced(chunk, index, chunk_lengths, chunk_values)
        for chunk, chunk_lengths, chunk_values in zip(chunks, of_chunks, torch.split(new_values, sizes), strict=True)
    ]


def _part(kjt: KeyedJaggedTensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(lengths [B], values) of a key."""
    lengths = kjt.lengths().view(len(kjt.keys()), -1)
    first, last = _bounds(lengths, index)
    return lengths[index], kjt.values()[first:last]


def _replaced(kjt: KeyedJaggedTensor, index: int, lengths: torch.Tensor, values: torch.Tensor) -> KeyedJaggedTensor:
    """A copy with another list of ids for one key."""
    all_lengths = kjt.lengths().view(len(kjt.keys()), -1).clone()
    first, last = _bounds(all_lengths, index)
    all_lengths[index] = lengths
    return KeyedJaggedTensor(
        keys=kjt.keys(),
        values=torch.cat([kjt.values()[:first], values, kjt.values()[last:]]),
        lengths=all_lengths.flatten(),
        stride=kjt.stride(),
    )


def _bounds(lengths: torch.Tensor, index: int) -> tuple[int, int]:
    """Where the values of key `index` stand; lengths [F, B]."""
    first = int(lengths[:index].sum())
    return first, first + int(lengths[index].sum())
