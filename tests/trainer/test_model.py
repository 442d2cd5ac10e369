from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from features.batches import Batch, Encoder
from features.schema import Schema
from tests.trainer.planted import SCHEMA, planted_examples, planted_recipe
from trainer.config import TrainingConfig
from trainer.model.build import build_model
from trainer.model.embeddings import SparseEmbeddings
from trainer.model.initial import initialise_dense, initialise_tables
from trainer.model.user_tower import UserTower

TASKS = ("click", "buy")
CONFIG = TrainingConfig.of(planted_recipe())


def batch_of(schema: Schema, num_rows: int = 12) -> Batch:
    encoder = Encoder(schema, tasks=TASKS)
    return encoder.encode(planted_examples(num_rows, seed=1).select(encoder.columns), num_rows=num_rows + 4)


def without(*names: str) -> Schema:
    return replace(
        SCHEMA,
        sparse=tuple(f for f in SCHEMA.sparse if f.name not in names),
        dense=tuple(f for f in SCHEMA.dense if f.name not in names),
    )


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(SCHEMA, id="everything"),
        pytest.param(without("age", "activity"), id="no-user-dense"),
        pytest.param(without("id", "recent_topics", "recent_items"), id="no-user-sparse"),
        pytest.param(without("item", "topic"), id="no-item-sparse"),
        pytest.param(without("hour"), id="no-item-dense"),
        pytest.param(without("item", "topic", "hour"), id="no-item-side"),
    ],
)
def test_every_shape_of_schema_learns(schema: Schema) -> None:
    model = build_model(replace(CONFIG, schema=schema))
    batch = batch_of(schema)
    assert model.user_tower(batch.user_sparse, batch.user_dense).shape == (16, 2, 16)
    loss, (detached, logits, labels, weights) = model(batch)
    loss.backward()
    assert loss.shape == ()
    assert not detached.requires_grad
    assert logits.shape == labels.shape == (16, 2)
    assert weights.tolist() == [1.0] * 12 + [0.0] * 4
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_user_tower_needs_a_user() -> None:
    schema = without("id", "recent_topics", "recent_items", "age", "activity")
    with pytest.raises(ValueError, match="no user-side feature"):
        UserTower(schema, planted_recipe().user_tower)


def test_padding_teaches_nothing() -> None:
    model = build_model(CONFIG)
    encoder = Encoder(SCHEMA, tasks=TASKS)
    rows = planted_examples(12, seed=1).select(encoder.columns)
    losses = [model(encoder.encode(rows, num_rows=n))[0].item() for n in (12, 40)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_embeddings_are_the_mean_of_their_ids_in_schema_order() -> None:
    module = SparseEmbeddings(SCHEMA, "user", dim=16, device=torch.device("cpu"))
    batch = batch_of(SCHEMA)
    found = module(batch.user_sparse)
    assert module.tables is not None
    weights = {name: bag.weight for name, bag in module.tables.embedding_bags.items()}
    for index, feature in enumerate(SCHEMA.sparse_of("user")):
        table = weights[f"user_{feature.table}"]
        for row, ids in enumerate(batch.user_sparse[feature.name].to_dense()):
            pooled = table[ids].mean(dim=0) if len(ids) else torch.zeros(16)
            expected = nn.functional.layer_norm(pooled, (16,))
            torch.testing.assert_close(found[row, index], expected, rtol=1e-4, atol=1e-5)


def test_both_sides_of_a_shared_table_have_their_own_copy() -> None:
    names = [
        [table.name for table in module.embedding_bag_configs()]
        for module in build_model(CONFIG, device=torch.device("meta")).modules()
        if isinstance(module, EmbeddingBagCollection)
    ]
    assert names == [["user_user", "user_topic", "user_item"], ["item_topic", "item_item"]]


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        model = build_model(CONFIG)
        initialise_dense(model, seed=seed)
        initialise_tables(model, seed=seed)
        return model.state_dict()

    first, again, other = weights(1, 1), weights(1, 2), weights(2, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if "norm" not in name]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
