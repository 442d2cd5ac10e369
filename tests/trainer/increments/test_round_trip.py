"""Base and increment together are the full checkpoint, to the bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard

from tests.trainer.increments.world import compare, large_recipe, write
from trainer.config import TrainingConfig
from trainer.increments.rows import TableTensor, apply_rows, save_rows, saved_rows
from trainer.increments.touched import Touched
from trainer.launch import run_ranks
from trainer.pieces import pieces_of

ROWS, COLUMNS = 6_007, 16
CONFIG = TrainingConfig.of(large_recipe())

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Where rows are cut, where columns are."""
TABLE_WISE: Layout = ((0, ROWS), (0, COLUMNS))
ROW_WISE: Layout = ((0, 2_003, 4_006, ROWS), (0, COLUMNS))
COLUMN_WISE: Layout = ((0, ROWS), (0, 4, COLUMNS))
GRID: Layout = ((0, 1_000, ROWS), (0, 8, COLUMNS))
LAYOUTS = {"table": TABLE_WISE, "row": ROW_WISE, "column": COLUMN_WISE, "grid": GRID}


def sharded_tensor(whole: torch.Tensor, layout: Layout, *, rank: int, world_size: int) -> ShardedTensor:
    """`whole`, cut by `layout`, with every `world_size`-th shard from `rank` on. Its memory is its own."""
    rows, columns = layout
    cuts = [
        ([begin, low][: whole.dim()], [end - begin, high - low][: whole.dim()])
        for begin, end in pairwise(rows)
        for low, high in pairwise(columns)
        if whole.dim() > 1 or low == 0
    ]
    metadata = [ShardMetadata(offsets, sizes, "rank:0/cpu") for offsets, sizes in cuts]
    shards = [
        Shard(whole[tuple(slice(o, o + s) for o, s in zip(*cut, strict=True))].clone(), shard)
        for cut, shard in zip(cuts, metadata, strict=True)
    ]
    found = ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, ShardedTensorMetadata(metadata, whole.size(), TensorProperties(dtype=whole.dtype))
    )
    found._local_shards = shards[rank::world_size]  # the other ranks' are elsewhere
    return found


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("by", LAYOUTS)
@pytest.mark.parametrize("dim", [pytest.param(1, id="a-number-per-row"), pytest.param(2, id="a-vector-per-row")])
def test_rows_are_taken_from_any_shards_into_any_others(
    by: str, to: str, dim: int, tmp_path: Path, one_rank: None
) -> None:
    rng = np.random.default_rng(5)
    base, today = (torch.from_numpy(rng.random((ROWS, COLUMNS)[:dim], dtype=np.float32)) for _ in range(2))
    touched = Touched(CONFIG)
    table = touched.tables[0]
    rows = np.unique(np.concatenate([[0, ROWS - 1], rng.integers(0, ROWS, 300)]))
    touched.add(table, rows)
    for rank in range(2):
        cut = sharded_tensor(today, LAYOUTS[by], rank=rank, world_size=2)
        save_rows(tmp_path, [TableTensor("optim.x", table, cut)], touched, rank=rank)
    assert np.array_equal(np.unique(np.concatenate([found for _, found in saved_rows(tmp_path)])), rows)
    expected = base.clone()
    expected[rows] = today[rows]
    for rank in range(3):
        memory = sharded_tensor(base, LAYOUTS[to], rank=rank, world_size=3)
        apply_rows(tmp_path, pieces_of("optim.x", memory))
        for shard, wanted in zip(
            memory.local_shards(),
            sharded_tensor(expected, LAYOUTS[to], rank=rank, world_size=3).local_shards(),
            strict=True,
        ):
            assert torch.equal(shard.tensor, wanted.tensor)


@pytest.mark.slow
def test_an_increment_loads_as_the_full_one_at_any_ranks_and_plans(tmp_path: Path, one_rank: None) -> None:
    jobs = [("two", 2, "planned", []), ("four", 4, "row_wise", ["two"]), ("again", 2, "row_wise", ["four", "two"])]
    for name, ranks, placement, others in jobs:
        job = tmp_path / f"job-{name}"
        job.mkdir()
        arguments = [placement, str(tmp_path / name), *(str(tmp_path / other) for other in others)]
        run_ranks("tests.trainer.increments.world:main", arguments, ranks=ranks, directory=job)
    for name in ("two", "four", "again"):
        compare(tmp_path / name, CONFIG)
    write(tmp_path / "one", CONFIG)
    compare(tmp_path / "one", CONFIG)
    assert dist.get_world_size() == 1
