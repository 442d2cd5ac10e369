"""What an experiment runs on: a source's days, user models and consumers by role, seeds.

`synthetic` is the demo's world with fewer users and a world per seed; `quick` is for the test suite, and shows nothing;
`globo` is the real clicks, where a seed draws the models alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import cast

from features.selection import Selection
from features.source import Source
from features.sources.globo import CONTEXT, GloboClicks
from features.sources.synthetic import SyntheticWorld
from trainer.recipe import DownstreamRecipe, Recipe, Schedule, Task
from trainer.recipes.globo import globo as globo_recipe
from trainer.recipes.towers import small_mix_tower, small_user_tower
from trainer.towers import InteractionModule, MixTower, Mlp, MlpMixer, PairwiseDots, UserTower

START = date(2026, 1, 1)
DOMAIN_A = (Selection(column="item_domain", values=(0,)),)
DOMAIN_B = (Selection(column="item_domain", values=(1,)),)
CLICKED = Selection(column="click", values=(1,))
FEWEST_SCORED = 2
"""Days: movement is measured between two."""
FEWEST_DAYS = FEWEST_SCORED + 1
"""One to learn from before consumers follow."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The days are consecutive; day 0 is `start`."""

    name: str
    source: Source
    start: date
    num_days: int
    num_followed: int
    """The last so many days are those that consumers learn from; user models learn from all."""
    num_settling: int
    """Of those, the first so many on which a consumer is too young to be scored; all but two at most."""
    user_models: Mapping[str, Recipe]
    """By role. `a` is the one whose own domain is a."""
    consumers: Mapping[str, DownstreamRecipe]
    """By role; `upstreams` name the roles of user models."""
    seeds: tuple[int, ...]
    one_of: int = 1
    """Keep one user of so many."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"setting {self.name}: seeds are {self.seeds}; name each of at least one seed once")
        if not 0 <= self.num_settling <= self.num_followed - FEWEST_SCORED or self.num_followed >= self.num_days:
            raise ValueError(
                f"setting {self.name}: {self.num_days} days, of which consumers follow {self.num_followed} and settle "
                f"on {self.num_settling}; give more days than are followed, and follow at least {FEWEST_SCORED} more "
                "than consumers settle on"
            )

    @property
    def days(self) -> tuple[date, ...]:
        """All of them."""
        return tuple(self.start + timedelta(days=index) for index in range(self.num_days))

    @property
    def followed(self) -> range:
        """The days, counted from 0, that consumers learn from."""
        return range(self.num_days - self.num_followed, self.num_days)

    def of(self, seed: int) -> Setting:
        """The setting of one seed: its world, where worlds are drawn, and its models."""
        source = self.source
        if isinstance(source, SyntheticWorld):
            source = replace(source, name=f"{source.name}_{seed}", seed=seed)
        models = {
            role: replace(recipe, name=f"{source.name}_{role}", source=source, seed=seed)
            for role, recipe in self.user_models.items()
        }
        consumers = {role: replace(consumer, seed=seed) for role, consumer in self.consumers.items()}
        return replace(self, source=source, user_models=models, consumers=consumers, seeds=(seed,))


def _models(source: Source, tower: UserTower, mix: MixTower, *, batch_size: int) -> dict[str, Recipe]:
    """Clicks of domain a; clicks and conversions of domain b, as the recipes demo_a and demo_b."""
    a = Recipe(
        name="a",
        source=source,
        tasks=(Task(name="click"),),
        examples=DOMAIN_A,
        schedule=Schedule(start=START),
        user_tower=tower,
        mix_tower=mix,
        batch_size=batch_size,
    )
    tasks = (Task(name="click"), Task(name="conversion", weight=0.5))
    return {"a": a, "b": replace(a, name="b", tasks=tasks, examples=DOMAIN_B)}


def _consumers(*, batch_size: int) -> dict[str, DownstreamRecipe]:
    """CTR and post-click CVR of both domains; none has a user feature of its own."""
    ctr = DownstreamRecipe(
        name="ctr_a", upstreams=("a",), task="click", user_features=(), examples=DOMAIN_A, batch_size=batch_size
    )
    cvr = replace(ctr, name="cvr_a", task="conversion", examples=(*DOMAIN_A, CLICKED))
    return {
        "ctr_a": ctr,
        "ctr_b": replace(ctr, name="ctr_b", examples=DOMAIN_B),
        "cvr_a": cvr,
        "cvr_b": replace(cvr, name="cvr_b", examples=(*DOMAIN_B, CLICKED)),
    }


def synthetic() -> Setting:
    """44 days of a third of the demo's users: user models learn from all, consumers follow the last 15. A snapshot of
    the middle of the days before is 15 days old then and 29 at the end; only one of the first day is a month old."""
    world = SyntheticWorld(
        name="experiments", num_users=2_000, num_items=1_000, events_per_day=20_000, rows_per_table=4_000
    )
    return Setting(
        name="synthetic",
        source=world,
        start=START,
        num_days=44,
        num_followed=15,
        num_settling=3,
        user_models=_models(world, small_user_tower(), small_mix_tower(), batch_size=256),
        consumers=_consumers(batch_size=256),
        seeds=(0, 1, 2, 3),
    )


def intent() -> Setting:
    """The same with users half of whose taste is of the moment: what Table 2 says where hours matter."""
    setting = synthetic()
    world = replace(cast(SyntheticWorld, setting.source), name="intent", intent=0.5)
    return replace(setting, name="intent", source=world, seeds=(0, 1, 2))


def quick() -> Setting:
    """Seconds."""
    world = SyntheticWorld(
        name="quick", num_users=200, num_items=50, events_per_day=800, num_sparse=2, num_dense=2, rows_per_table=200
    )
    tower = UserTower(
        dim=8,
        num_dense=1,
        modules=(
            InteractionModule(extractors=(MlpMixer(num_outputs=2, token_hidden=4, channel_hidden=4),), residual=None),
        ),
    )
    mix = MixTower(layers=((PairwiseDots(num_outputs=2), Mlp(num_outputs=2, hidden=(8,))),))
    return Setting(
        name="quick",
        source=world,
        start=START,
        num_days=6,
        num_followed=3,
        num_settling=1,
        user_models=_models(world, tower, mix, batch_size=128),
        consumers=_consumers(batch_size=128),
        seeds=(0, 1),
    )


def globo() -> Setting:
    """The twelve days of real clicks of one user of twelve (all of them take hours); `a` learns from clicks, `b` from
    visits that went on."""
    recipe = replace(globo_recipe(), name="a", tasks=(Task(name="click"),))
    context = tuple(f"context_{name}" for name in CONTEXT)
    ctr = DownstreamRecipe(name="ctr_a", upstreams=("a",), task="click", user_features=context)
    return Setting(
        name="globo",
        source=cast(GloboClicks, recipe.source),
        start=recipe.schedule.start,
        num_days=12,
        num_followed=9,
        num_settling=2,
        user_models={"a": recipe, "b": replace(recipe, name="b", tasks=(Task(name="engaged"),))},
        consumers={"ctr_a": ctr, "ctr_b": replace(ctr, name="ctr_b", task="engaged", upstreams=("b",))},
        seeds=(0, 1, 2),
        one_of=12,
    )


SETTINGS: dict[str, Callable[[], Setting]] = {"synthetic": synthetic, "intent": intent, "quick": quick, "globo": globo}


def get_setting(
    name: str, *, num_seeds: int | None = None, num_days: int | None = None, one_of: int | None = None
) -> Setting:
    """The setting of that name; fewer or more seeds, the first days, a share of its users.

    ValueError for an unknown name, and for numbers that make no experiment.
    """
    if name not in SETTINGS:
        raise ValueError(f"there is no setting {name!r}; known: {', '.join(SETTINGS)}")
    setting = SETTINGS[name]()
    if num_seeds is not None:
        setting = replace(setting, seeds=tuple(range(num_seeds)))
    if num_days is not None:
        if not FEWEST_DAYS <= num_days <= setting.num_days:
            span = f"{FEWEST_DAYS} to {setting.num_days}"
            raise ValueError(f"{num_days} days of setting {name}; it has {setting.num_days}: take {span}")
        share = num_days * setting.num_followed // setting.num_days
        followed = min(setting.num_followed, max(share, FEWEST_SCORED))
        settling = min(setting.num_settling, followed - FEWEST_SCORED)
        setting = replace(setting, num_days=num_days, num_followed=followed, num_settling=settling)
    if one_of is not None:
        setting = replace(setting, one_of=one_of)
    return setting
