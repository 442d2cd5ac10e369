"""Writes a day's state as an increment: the dense part in full, of the tables the rows that were touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.checkpoint import save_state
from trainer.increments.load import tensors_of, without
from trainer.increments.rows import TableTensor, save_rows
from trainer.increments.touched import Touched
from trainer.shards import local_parts, whole_shape

_ROW_NUMBER_BYTES = 4


def save_increment(directory: Path, state: Mapping[str, Any], touched: Touched) -> None:
    """Write this rank's part. A collective: each rank calls it with the same directory, and `touched` merged."""
    tables = list(table_tensors(state, touched.tables))
    save_state(directory, without(state, {table.name for table in tables}))
    save_rows(directory, tables, touched, rank=dist.get_rank())


def table_tensors(state: Mapping[str, Any], tables: Iterable[str]) -> Iterator[TableTensor]:
    """The weights and the optimizer's states of `tables`, which are named by their weights; what has not a row for each
    of theirs, as a counter of steps, belongs to the dense part."""
    for weights in tables:
        tensor = state["model"][weights]
        yield TableTensor(f"model.{weights}", weights, tensor)
        for key, value in tensors_of(state["optim"]["state"].get(weights, {})):
            if whole_shape(value)[:1] == whole_shape(tensor)[:1]:
                yield TableTensor(f"optim.state.{weights}.{key}", weights, value)


def sizes(state: Mapping[str, Any], touched: Touched, *, device: torch.device) -> tuple[int, int]:
    """(bytes as an increment, bytes in full), over all ranks. A collective; device: the process group's."""
    tables = list(table_tensors(state, touched.tables))
    dense = 0
    if dist.get_rank() == 0:  # every rank has the whole of it
        rest = without(state, {table.name for table in tables})
        dense = sum(part.nbytes for _, tensor in tensors_of(rest) for _, part in local_parts(tensor))
    increment = full = dense
    for _, weights, tensor in tables:
        for offsets, part in local_parts(tensor):
            num_rows = part.shape[0]
            num_touched = touched.rows(weights, begin=offsets[0], end=offsets[0] + num_rows).size
            full += part.nbytes
            increment += num_touched * (part.nbytes // max(num_rows, 1) + _ROW_NUMBER_BYTES)
    both = torch.tensor([increment, full], device=device)
    dist.all_reduce(both)
    return int(both[0]), int(both[1])
