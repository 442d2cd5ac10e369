"""The downstream models of Table 1: every goal, domain and size of the recipes, in the world of a setting."""

from __future__ import annotations

from dataclasses import dataclass, replace

from features.schema import Schema
from features.sources.synthetic import SyntheticWorld
from infra.experiments.setting import Setting
from trainer.recipe import DownstreamRecipe
from trainer.recipes.consumers import (
    DEMO_GOALS,
    DEMO_SIZES,
    GLOBO_GOALS,
    GLOBO_SIZES,
    demo_consumer,
    globo_consumer,
)
from trainer.recipes.demo import DOMAINS

CTR, POST_CLICK, POST_IMPRESSION = "CTR", "post-click CVR", "post-impression CVR"
TASKS = {"ctr": CTR, "cvr": POST_CLICK, "ctcvr": POST_IMPRESSION, "engaged": POST_CLICK, "visit": POST_IMPRESSION}
"""By the recipes' goal. On the real clicks the conversion is a visit that goes on."""
SMALL, LARGE = "small", "large"
ANYWHERE = "news"
"""The one domain of the real clicks."""


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A downstream model, and how the table names it."""

    task: str
    domain: str
    size: str
    recipe: DownstreamRecipe

    def __str__(self) -> str:
        return f"{self.task}, {self.domain}, {self.size}"


def consumers_of(setting: Setting) -> tuple[Consumer, ...]:
    """All of a setting of one seed, tasks first."""
    if isinstance(setting.source, SyntheticWorld):
        return tuple(
            consumer_of(setting, goal, size, domain=domain)
            for goal in DEMO_GOALS
            for domain in DOMAINS
            for size in DEMO_SIZES
        )
    return tuple(consumer_of(setting, goal, size) for goal in GLOBO_GOALS for size in GLOBO_SIZES)


def asked(setting: Setting) -> tuple[Consumer, ...]:
    """Those that the questions about user model a are put to: a small and a large one of its own task and domain, and
    one of another task."""
    other = "cvr" if isinstance(setting.source, SyntheticWorld) else "engaged"
    return consumer_of(setting, "ctr", SMALL), consumer_of(setting, "ctr", LARGE), consumer_of(setting, other, SMALL)


def consumer_of(setting: Setting, goal: str, size: str, *, domain: str = "a") -> Consumer:
    """One of them; the features that the setting's world does not have are left out."""
    (seed,) = setting.seeds
    upstreams = tuple(setting.user_models)
    if isinstance(setting.source, SyntheticWorld):
        recipe = demo_consumer(domain, goal, size, upstreams)
    else:
        recipe, domain = globo_consumer(goal, size, upstreams), ANYWHERE
    known = user_side(setting.source.schema)
    features = tuple(name for name in recipe.user_features if name in known)
    return Consumer(
        task=TASKS[goal], domain=domain, size=size, recipe=replace(recipe, user_features=features, seed=seed)
    )


def user_side(schema: Schema) -> list[str]:
    """The names of the user's features."""
    lists, values = schema.sparse_of("user"), schema.dense_of("user")
    return [*(feature.name for feature in lists), *(feature.name for feature in values)]
