"""Initial weights that depend on the seed alone: not on the sharding plan or the number of ranks."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from features.fingerprint import fingerprint

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
        if isinstance(tensor, ShardedTensor):
            num_rows, dim = tensor.metadata().size
            for shard in tensor.local_shards():
                row, column = shard.metadata.shard_offsets
                _fill(shard.tensor, name, seed=seed, row=row, column=column, num_rows=num_rows, dim=dim)
        else:
            _fill(tensor, name, seed=seed, row=0, column=0, num_rows=tensor.shape[0], dim=tensor.shape[1])


@torch.no_grad()
def _fill(target: torch.Tensor, name: str, *, seed: int, row: int, column: int, num_rows: int, dim: int) -> None:
    """`target` is the part of a [num_rows, dim] table that begins at (row, column)."""
    bound = num_rows**-0.5
    stop = row + target.shape[0]
    for block in range(row // _ROWS, -(-stop // _ROWS)):
        first, last = block * _ROWS, min((block + 1) * _ROWS, num_rows)
        generator = torch.Generator().manual_seed(int(fingerprint(seed, name, block)[:15], 16))
        values = torch.empty(last - first, dim).uniform_(-bound, bound, generator=generator)
        low, high = max(row, first), min(stop, last)
        target[low - row : high - row] = values[low - first : high - first, column : column + target.shape[1]]
