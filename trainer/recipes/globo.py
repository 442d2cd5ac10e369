"""`globo`: the click log of a news portal."""

from __future__ import annotations

from datetime import date

from features.sources.globo import CONTEXT, GloboClicks
from trainer.gate import Gate
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task
from trainer.recipes.towers import small_mix_tower, small_user_tower
from trainer.towers import Mlp


def globo() -> Recipe:
    """Clicks against sampled negatives, and clicks that begin a longer visit."""
    return Recipe(
        name="globo",
        source=GloboClicks(),
        user_tower=small_user_tower().without(Mlp),  # its dearest extractor, and here worth nothing (README)
        mix_tower=small_mix_tower(),
        tasks=(Task(name="click"), Task(name="engaged", weight=0.5)),
        gate=Gate(cosine_min=0.7, norm_change_max=0.3),
        schedule=Schedule(start=date(2017, 10, 1), end=date(2017, 10, 12), timezone="Etc/GMT+3"),
        slices=("context_device_group",),
    )


def globo_ctr() -> DownstreamRecipe:
    """A small click model that knows the context of the visit, but nothing of the user's history."""
    context = tuple(f"context_{name}" for name in CONTEXT)
    return DownstreamRecipe(name="globo_ctr", upstreams=("globo",), task="click", user_features=context)
