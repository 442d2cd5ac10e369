"""The recipes, by name. Adding a user model is adding a module here and a line below."""

from __future__ import annotations

from collections.abc import Callable

from trainer.recipe import DownstreamRecipe, Recipe
from trainer.recipes.consumers import CONSUMERS
from trainer.recipes.demo import demo, demo_a, demo_b, demo_ctr, demo_foundation
from trainer.recipes.fb_ctr import fb_ctr, fb_ctr_mini
from trainer.recipes.globo import globo, globo_click, globo_ctr, globo_engaged

USER_MODELS = {
    "demo": demo,
    "demo_a": demo_a,
    "demo_b": demo_b,
    "globo": globo,
    "globo_click": globo_click,
    "globo_engaged": globo_engaged,
}
"""Each has its DAGs. Those of one source share the examples and the user features in the lake, not what they learn from
them."""
UNSCHEDULED = {"demo_foundation": demo_foundation, "fb_ctr": fb_ctr, "fb_ctr_mini": fb_ctr_mini}
"""Planned, or run by hand: a laptop's Airflow should not try 160 GB."""
DOWNSTREAM_MODELS: dict[str, Callable[[], DownstreamRecipe]] = {
    "demo_ctr": demo_ctr,
    "globo_ctr": globo_ctr,
    **CONSUMERS,
}


def get_recipe(name: str) -> Recipe:
    """The user model's recipe; ValueError lists the known ones."""
    known = USER_MODELS | UNSCHEDULED
    if name not in known:
        raise ValueError(f"there is no recipe {name!r}; known: {', '.join(sorted(known))}")
    return known[name]()


def get_scheduled(name: str) -> Recipe:
    """The same of one that has DAGs; ValueError for another."""
    recipe = get_recipe(name)
    if name not in USER_MODELS:
        raise ValueError(
            f"recipe {name!r} has no DAG: it is planned, or run by hand; with one: {', '.join(USER_MODELS)}"
        )
    return recipe


def get_downstream(name: str) -> DownstreamRecipe:
    """The downstream model's recipe; ValueError lists the known ones."""
    if name not in DOWNSTREAM_MODELS:
        raise ValueError(f"there is no downstream model {name!r}; known: {', '.join(sorted(DOWNSTREAM_MODELS))}")
    return DOWNSTREAM_MODELS[name]()


def consumers_of(upstream: str) -> list[str]:
    """The downstream models that consume the user model, alone or among others."""
    return [name for name, make in DOWNSTREAM_MODELS.items() if upstream in make().upstreams]


def the_consumer(upstream: str) -> DownstreamRecipe:
    """The downstream model of the user model alone; ValueError unless there is exactly one."""
    found = [recipe for recipe in (make() for make in DOWNSTREAM_MODELS.values()) if recipe.upstreams == (upstream,)]
    if len(found) != 1:
        names = [recipe.name for recipe in found]
        raise ValueError(
            f"{upstream} has {len(found)} downstream models {names} of its own; name one of "
            f"{names or sorted(DOWNSTREAM_MODELS)}"
        )
    return found[0]
