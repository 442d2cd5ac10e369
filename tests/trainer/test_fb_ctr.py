"""`fb_ctr` has the size that section 6.1.3 states, counted on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.recipes import get_recipe
from trainer.towers import DotCompression, Mlp, MlpMixer

META = torch.device("meta")


def tower_of(recipe: Recipe) -> UserTower:
    with META:
        return UserTower(recipe.source.schema, recipe.user_tower, device=META)


def mflop_per_inference(recipe: Recipe) -> float:
    """Of the dense part: pooling the looked-up rows adds one addition per id and channel, a thousandth of it."""
    tower = tower_of(recipe)
    with FlopCounterMode(display=False) as counter:
        num_dense = len(recipe.source.schema.dense_of("user"))
        dense = tower.dense(torch.empty(1, num_dense, device=META))
        embeddings = tower.compress(torch.empty(1, tower.sparse.num_embeddings, tower.dim, device=META), dense)
    assert embeddings.shape == (1, recipe.user_tower.num_embeddings, recipe.user_tower.dim)
    return counter.get_total_flops() / 1e6


def test_the_paper_s_features_and_extractors() -> None:
    recipe = get_recipe("fb_ctr")
    schema = recipe.source.schema
    assert len(schema.sparse_of("user")) == pytest.approx(600, rel=0.05)
    assert len(schema.dense_of("user")) == 1000
    assert (recipe.user_tower.num_embeddings, recipe.user_tower.dim) == (2, 96)
    assert len(recipe.user_tower.modules) == 4
    for module in recipe.user_tower.modules:
        assert [type(extractor) for extractor in module.extractors] == [Mlp, DotCompression, MlpMixer]


def test_the_paper_s_parameters() -> None:
    tower = tower_of(get_recipe("fb_ctr"))
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in tower.parameters())
    assert num_bytes == pytest.approx(160e9, rel=0.05)


@pytest.mark.parametrize(
    ("name", "mflop"),
    [pytest.param("fb_ctr", 390, id="section-6.1.3"), pytest.param("fb_ctr_mini", 20, id="compact-section-6.4")],
)
def test_the_paper_s_flops(name: str, mflop: float) -> None:
    assert mflop_per_inference(get_recipe(name)) == pytest.approx(mflop, rel=0.05)
