"""Which towers are compared, and which downstream models read them."""

from __future__ import annotations

import pytest

from infra.experiments.consumers import asked, consumers_of
from infra.experiments.extractors import towers_of
from infra.experiments.outputs import NUMBERS
from infra.experiments.setting import get_setting
from infra.experiments.sizes import USER, sizes_of
from trainer.downstream.arms import own_features, small_tables
from trainer.recipes.towers import small_user_tower
from trainer.towers import DeepCross


def test_every_tower_lacks_one_thing() -> None:
    recipe = get_setting("globo").user_models["a"]
    towers = towers_of(recipe.user_tower)
    assert towers["all"] == small_user_tower(), "the real clicks' recipe has no MLP"
    assert towers["without MLP"] == recipe.user_tower
    assert len({repr(tower) for tower in towers.values()}) == len(towers) == 6
    kinds = [[type(one) for one in module.extractors] for module in towers["without deep cross net"].modules]
    assert all(DeepCross not in of_module and len(of_module) == 3 for of_module in kinds)
    assert all(module.residual is None for module in towers["without residual"].modules)
    assert 2 in NUMBERS, "the paper's K is the reference"


@pytest.mark.parametrize("name", ["synthetic", "globo", "quick"])
def test_every_downstream_model_fits_its_setting(name: str) -> None:
    setting = get_setting(name).of(1)
    schema = small_tables(setting.source.schema)
    consumers = consumers_of(setting)
    assert len({str(one) for one in consumers}) == len(consumers) >= 6
    assert {str(one) for one in asked(setting)} <= {str(one) for one in consumers}
    for consumer in consumers:
        assert consumer.recipe.seed == 1
        assert own_features(consumer.recipe, schema)
    sizes = sizes_of(setting)
    numbers = [len(of.user_features) for title, of in sizes.items() if title.startswith("wide,")]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert [title for title, of in sizes.items() if USER in of.user_features] == ["wide, all and the id"]
    assert all(own_features(of, schema) for of in sizes.values())


def test_the_large_model_has_more() -> None:
    of = {str(one): one.recipe for one in consumers_of(get_setting("synthetic").of(0))}
    small, large = of["CTR, a, small"], of["CTR, a, large"]
    assert set(small.user_features) < set(large.user_features)
    assert small.examples == large.examples
    assert of["post-click CVR, a, small"].examples != small.examples
