"""The names of `axes` describe the models that are built: every tensor, every size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from features.schema import Schema
from tests.trainer.planted import SCHEMA, planted_recipe
from trainer.carryover.axes import Block, dense_axes, size
from trainer.carryover.compare import matching, table_shapes
from trainer.config import Dlrm, Sum, TrainingConfig
from trainer.model.build import build_model
from trainer.recipes import USER_MODELS, get_recipe
from trainer.towers import MixTower, PairwiseDots

PLANTED = TrainingConfig.of(planted_recipe())
ITEM_ONLY = replace(SCHEMA, sparse=SCHEMA.sparse[:3], dense=SCHEMA.dense[:2])


def with_schema(schema: Schema) -> TrainingConfig:
    return replace(PLANTED, schema=schema)


def with_mix_tower(tower: MixTower) -> TrainingConfig:
    assert isinstance(PLANTED.model, Sum)
    return replace(PLANTED, model=replace(PLANTED.model, mix_tower=tower))


CONFIGS = {
    "planted": PLANTED,
    "no-dense-feature": with_schema(replace(SCHEMA, dense=())),
    "no-sparse-user-feature": with_schema(replace(SCHEMA, sparse=SCHEMA.sparse[3:])),
    "no-item-side": with_schema(ITEM_ONLY),
    "pairwise-dots": with_mix_tower(MixTower(layers=((PairwiseDots(num_outputs=3),),), hidden=(8, 4))),
    "no-layer-no-hidden": with_mix_tower(MixTower(hidden=())),
    "dlrm": replace(PLANTED, model=Dlrm(dim=8, bottom=(16,), over=(16, 8))),
    **{name: TrainingConfig.of(get_recipe(name)) for name in USER_MODELS},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_of_the_model_is_described(name: str) -> None:
    model = build_model(CONFIGS[name], device=torch.device("meta"))
    built = {tensor_name: tuple(tensor.shape) for tensor_name, tensor in model.state_dict().items()}
    dense = {tensor_name: tuple(map(size, axes)) for tensor_name, axes in dense_axes(CONFIGS[name]).items()}
    assert dense | table_shapes(CONFIGS[name]) == built


def test_no_axis_names_an_index_twice() -> None:
    for axes in dense_axes(PLANTED).values():
        for axis in axes:
            assert len(set(axis)) == len(axis)


def axis(text: str) -> tuple[Block, ...]:
    """`a1 b2`: blocks a and b of widths 1 and 2."""
    return tuple(Block(word[0], int(word[1:])) for word in text.split())


@pytest.mark.parametrize(
    ("old", "new", "spans"),
    [
        pytest.param("a2 b2", "a2 b2", ((0, 0, 4),), id="the same"),
        pytest.param("a2 b2", "b2 a2", ((2, 0, 2), (0, 2, 2)), id="reordered"),
        pytest.param("a2 b2", "a2 c1 b2", ((0, 0, 2), (2, 3, 2)), id="one new between"),
        pytest.param("a2 b2 c2", "a2 c2", ((0, 0, 2), (4, 2, 2)), id="one gone between"),
        pytest.param("a2 b2", "a3 b2", ((2, 3, 2),), id="another width"),
        pytest.param("a2", "b2", (), id="nothing in common"),
    ],
)
def test_matching(old: str, new: str, spans: tuple[object, ...]) -> None:
    assert matching(axis(old), axis(new)) == spans
