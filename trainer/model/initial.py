"""Initial weights that depend on the seed alone: not on the sharding plan or the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from features.fingerprint import fingerprint
from trainer.shards import local_parts, whole_shape

_ROWS = 65_536


def initialise_dense(model: nn.Module, *, seed: int) -> None:
    """Draw every layer of the dense part anew (`reset_parameters`), each from a seed of its own name: adding
    a layer moves no other."""
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None and not isinstance(module, (EmbeddingBagCollection, nn.EmbeddingBag)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(fingerprint(seed, name)[:15], 16))
                reset()


def initialise_tables(model: nn.Module, *, seed: int) -> None:
    """Fill every embedding table, sharded or not, uniformly in +-1/sqrt(rows).

    Rows are drawn in blocks, each from its own generator, so a rank draws the blocks it holds and no others.
    """
    for name, tensor in model.state_dict().items():
        if ".embedding_bags." not in name:
            continue
        num_rows, dim = whole_shape(tensor)
        for (row, column), part in local_parts(tensor):
            _fill(part, name, seed=seed, row=row, column=column, num_rows=num_rows, dim=dim)


@torch.no_grad()
def _fill(target: torch.Tensor, name: str, *, seed: int, row: int, column: int, num_rows: int, dim: int) -> None:
    """`target` is the part of a [num_rows, dim] table that begins at (row, column)."""
    stop = row + target.shape[0]
    for block in range(row // _ROWS, -(-stop // _ROWS)):
        values = _drawn(name, block, seed=seed, num_rows=num_rows, dim=dim)
        first, last = block * _ROWS, block * _ROWS + values.shape[0]
        low, high = max(row, first), min(stop, last)
        target[low - row : high - row] = values[low - first : high - first, column : column + target.shape[1]]


def _drawn(name: str, block: int, *, seed: int, num_rows: int, dim: int) -> torch.Tensor:
    """The initial weights of one block of rows, [<= _ROWS, dim]."""
    bound, first = num_rows**-0.5, block * _ROWS
    generator = torch.Generator().manual_seed(int(fingerprint(seed, name, block)[:15], 16))
    return torch.empty(min(_ROWS, num_rows - first), dim).uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise_rows(name: str, table: Any, moments: Sequence[Any], *, rows: npt.NDArray[np.int64], seed: int) -> None:
    """Give `rows` of a table their initial weights again, and zeros in its optimizer's state (`moments`).

    Tables and states are sharded or not; a rank changes what it holds.
    """
    num_rows, dim = whole_shape(table)
    wanted = torch.from_numpy(np.sort(rows))
    for (row, column), target in local_parts(table):
        own = wanted[(wanted >= row) & (wanted < row + target.shape[0])]
        for block in torch.unique(own // _ROWS).tolist():
            of_block = own[own // _ROWS == block]
            values = _drawn(name, block, seed=seed, num_rows=num_rows, dim=dim)[of_block - block * _ROWS]
            target[(of_block - row).to(target.device)] = values[:, column : column + target.shape[1]].to(target.device)
    for moment in moments:
        for (row, *_), target in local_parts(moment):
            own = wanted[(wanted >= row) & (wanted < row + target.shape[0])] - row
            target[own.to(target.device)] = 0
