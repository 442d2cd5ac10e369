"""`demo`: a small synthetic world, minutes on two cores."""

from __future__ import annotations

from datetime import date

from features.sources.synthetic import SyntheticWorld
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task, UserTower


def demo() -> Recipe:
    """Clicks and conversions of a few thousand users in a world that drifts."""
    return Recipe(
        name="demo",
        source=SyntheticWorld(name="demo"),
        tasks=(Task(name="click"), Task(name="conversion", weight=0.5)),
        schedule=Schedule(start=date(2026, 1, 1), end=date(2026, 1, 31)),
        user_tower=UserTower(),
    )


def demo_ctr() -> DownstreamRecipe:
    """A small click model with two user features of its own."""
    return DownstreamRecipe(name="demo_ctr", upstream="demo", task="click", user_features=())
