"""What was looked up is marked, and nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from features.columns import column_of
from features.hashing import hash_ids
from tests.trainer.increments.world import LARGE, batches, large_recipe, learn
from tests.trainer.planted import planted_examples
from trainer import sharding
from trainer.config import TrainingConfig
from trainer.increments.save import table_tensors
from trainer.increments.touched import Touched
from trainer.recipe import Optimizer

CONFIG = TrainingConfig.of(large_recipe())


def test_every_row_that_is_looked_up_is_marked_and_no_other(one_rank: None) -> None:
    touched = Touched(CONFIG)
    given = list(touched.watch(batches(CONFIG, seed=2)))
    assert given
    examples = planted_examples(32 * len(given), seed=2)
    for side, feature, table in (
        ("user", "recent_items", "item"),
        ("user", "id", "user"),
        ("item", "item", "item"),
        ("item", "topic", "topic"),
    ):
        ids = column_of(examples, feature).values.to_numpy()
        rows = ids.astype(np.int64).copy()
        hash_ids(rows, LARGE.table(table).num_rows)
        (weights,) = (name for name in touched.tables if name.endswith(f".{side}_{table}.weight"))
        assert np.array_equal(touched.rows(weights, begin=0, end=6_007), np.unique(rows))
        assert touched.shares()[f"{side}_{table}"] == pytest.approx(np.unique(rows).size / 6_007, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_an_untouched_row_does_not_move_by_a_bit(optimizer: Any, one_rank: None) -> None:
    config = TrainingConfig.of(large_recipe(optimizer=Optimizer(sparse=optimizer, sparse_lr=0.1)))
    sharded = sharding.build(config, local_world_size=1)
    learn(sharded, config, seed=1)

    def tables() -> dict[str, tuple[str, torch.Tensor]]:
        tensors = table_tensors(sharded.state_dict(), Touched(config).tables)
        return {name: (weights, tensor.local_shards()[0].tensor.clone()) for name, weights, tensor in tensors}

    before = tables()
    touched = learn(sharded, config, seed=2)
    after = tables()
    assert len(before) == 2 * len(touched.tables), "weights, and one state of each table"
    for name, (weights, was) in before.items():
        moved = (after[name][1] != was).reshape(6_007, -1).any(dim=1)
        marked = torch.zeros(6_007, dtype=torch.bool)
        marked[torch.from_numpy(touched.rows(weights, begin=0, end=6_007))] = True
        assert moved.any()
        assert not (moved & ~marked).any(), name
