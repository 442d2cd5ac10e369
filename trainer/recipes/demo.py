"""`demo`: a small synthetic world, minutes on two cores."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from features.selection import Selection
from features.sources.synthetic import SyntheticWorld
from trainer.gate import Gate
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task
from trainer.recipes.towers import large_mix_tower, small_mix_tower, small_user_tower

YOUNG = Gate(cosine_min=0.6, norm_change_max=0.6)
"""A model in its first days still moves a lot from day to day; tighten this as it matures."""
DOMAINS = {
    "a": Selection(column="item_domain", values=(0,)),
    "b": Selection(column="item_domain", values=(1,)),
}
CLICK, CONVERSION = Task(name="click"), Task(name="conversion", weight=0.5)


def _user_model(name: str, *tasks: Task, examples: tuple[Selection, ...] = ()) -> Recipe:
    """One of the user models of this world."""
    return Recipe(
        name=name,
        source=SyntheticWorld(name="demo"),
        examples=examples,
        user_tower=small_user_tower(),
        mix_tower=small_mix_tower(),
        tasks=tasks,
        schedule=Schedule(start=date(2026, 1, 1), end=date(2026, 1, 31)),
        gate=YOUNG,
        batch_size=256,
        slices=("item_domain",),
    )


def demo() -> Recipe:
    """Clicks and conversions of a few thousand users in a world that drifts."""
    return _user_model("demo", CLICK, CONVERSION)


def demo_a() -> Recipe:
    """Clicks of domain A: half of the same examples."""
    return _user_model("demo_a", CLICK, examples=(DOMAINS["a"],))


def demo_b() -> Recipe:
    """Clicks and conversions of domain B: the other half."""
    return _user_model("demo_b", CLICK, CONVERSION, examples=(DOMAINS["b"],))


def demo_foundation() -> Recipe:
    """The user model with a mix tower too dear for a request: SOLARIS serves what it makes of pairs ahead of time."""
    return replace(demo(), name="demo_foundation", mix_tower=large_mix_tower())


def demo_ctr() -> DownstreamRecipe:
    """A small click model that has no user feature of its own."""
    return DownstreamRecipe(name="demo_ctr", upstreams=("demo",), task="click", user_features=(), batch_size=512)
