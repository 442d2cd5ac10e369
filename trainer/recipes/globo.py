"""`globo`: the click log of a news portal."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from features.sources.globo import CONTEXT, GloboClicks
from trainer.gate import Gate
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task
from trainer.recipes.towers import small_mix_tower, small_user_tower
from trainer.towers import Mlp

CLICK, ENGAGED = Task(name="click"), Task(name="engaged")


def _user_model(name: str, *tasks: Task) -> Recipe:
    """One of the user models of this log."""
    return Recipe(
        name=name,
        source=GloboClicks(),
        user_tower=small_user_tower().without(Mlp),  # its dearest extractor, and here worth nothing (README)
        mix_tower=small_mix_tower(),
        tasks=tasks,
        gate=Gate(cosine_min=0.7, norm_change_max=0.3),
        schedule=Schedule(start=date(2017, 10, 1), end=date(2017, 10, 12), timezone="Etc/GMT+3"),
        slices=("context_device_group",),
    )


def globo() -> Recipe:
    """Clicks against sampled negatives, and clicks that begin a longer visit."""
    return _user_model("globo", CLICK, replace(ENGAGED, weight=0.5))


def globo_click() -> Recipe:
    """Clicks alone."""
    return _user_model("globo_click", CLICK)


def globo_engaged() -> Recipe:
    """Clicks that begin a longer visit alone."""
    return _user_model("globo_engaged", ENGAGED)


def globo_ctr() -> DownstreamRecipe:
    """A small click model that knows the context of the visit, but nothing of the user's history."""
    context = tuple(f"context_{name}" for name in CONTEXT)
    return DownstreamRecipe(name="globo_ctr", upstreams=("globo",), task="click", user_features=context)
