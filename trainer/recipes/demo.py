"""`demo`: a small synthetic world, minutes on two cores."""

from __future__ import annotations

from datetime import date

from features.sources.synthetic import SyntheticWorld
from trainer.gate import Gate
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task
from trainer.recipes.towers import small_mix_tower, small_user_tower

YOUNG = Gate(cosine_min=0.6, norm_change_max=0.6)
"""A model in its first days still moves a lot from day to day; tighten this as it matures."""


def demo() -> Recipe:
    """Clicks and conversions of a few thousand users in a world that drifts."""
    return Recipe(
        name="demo",
        source=SyntheticWorld(name="demo"),
        user_tower=small_user_tower(),
        mix_tower=small_mix_tower(),
        tasks=(Task(name="click"), Task(name="conversion", weight=0.5)),
        schedule=Schedule(start=date(2026, 1, 1), end=date(2026, 1, 31)),
        gate=YOUNG,
        batch_size=256,
        slices=("item_domain",),
    )


def demo_ctr() -> DownstreamRecipe:
    """A small click model that has no user feature of its own."""
    return DownstreamRecipe(name="demo_ctr", upstreams=("demo",), task="click", user_features=(), batch_size=512)
