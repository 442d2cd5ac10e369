"""Walk a model's days in event time, serve every request by every mode, and let a downstream model judge."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import date

import torch

from features.lake import Lake
from infra.settings import Settings
from serving.replay.arms import ModeArms
from serving.replay.modes import ReplayConfig
from serving.replay.requests import read_requests
from serving.replay.result import Replayed, ScoredDay, ne_of, summarise, total
from serving.replay.snapshots import PromotedDays
from serving.replay.stores import Stores
from snapshots.registry import Registry
from trainer.recipe import DownstreamRecipe, Recipe

log = logging.getLogger(__name__)

Say = Callable[[str], None]


def replay(
    recipe: Recipe,
    downstream: DownstreamRecipe,
    days: Sequence[date],
    *,
    settings: Settings,
    config: ReplayConfig,
    frozen: date | None = None,
    promoted: PromotedDays | None = None,
    unscored: int = 1,
    say: Say = log.info,
) -> Replayed:
    """Serve and score the examples of `days`, in order; nothing in the lake or the registry changes.

    On each day the arms are first scored as they stand, then they learn the day in event time, every batch scored
    before it is learnt (the first `unscored` days are learnt only). Memory
    holds one day's requests, and what the stores carry. frozen: the day of the frozen snapshot, None for the oldest
    promoted one. promoted: None for what the registry says. ValueError: no day is left to be scored, or none was
    promoted before the first.
    """
    if len(days) <= unscored or unscored < 1:
        raise ValueError(
            f"{len(days)} days, of which {unscored} are learnt from and never scored; the first never is: replay at "
            "least two"
        )
    if downstream.upstreams != (recipe.name,):
        raise ValueError(
            f"downstream model {downstream.name} consumes {downstream.upstreams}; name one that consumes {recipe.name} "
            "alone"
        )
    began = time.monotonic()
    torch.set_num_threads(1)
    lake = Lake(settings.lake)
    source = recipe.source
    if promoted is None:
        registry = Registry(settings)
        promoted = PromotedDays.of(recipe.name, source.name, registry=registry, lake=lake, before=days[-1])
    frozen_ds = promoted.days[0].ds if frozen is None else frozen
    stores = Stores(recipe, lake, promoted, config=config, first=days[0], frozen=frozen_ds)
    arms = ModeArms(downstream, source.schema, recipe.user_tower, modes=[mode.name for mode in config.modes])
    found: list[ScoredDay] = []
    for ds in days:
        started = time.monotonic()
        scored = len(found) >= unscored
        found.append(_day(ds, stores, arms, lake=lake, table=f"examples/{source.name}", scored=scored))
        left = (len(days) - len(found)) * (time.monotonic() - started)
        say(f"{ds}: {time.monotonic() - started:.1f} s; {len(found)} of {len(days)} days, about {left:.0f} s to go")
    modes = summarise(found, config=config, seed=downstream.seed)
    next_day = total([day.evaluation for day in found if day.evaluation is not None])
    return Replayed(
        model=recipe.name,
        downstream=downstream.name,
        days=tuple(days),
        frozen_ds=frozen_ds,
        config=config,
        baseline_ne=ne_of(next_day, 0),
        baseline_online_ne=ne_of(total([day.training for day in found[unscored:]]), 0),
        num_requests=sum(day.tallies[modes[0].mode.name].requests for day in found[unscored:]),
        num_examples=next_day.num_examples,
        num_users=len(next_day.user_ids),
        modes=modes,
        seconds=round(time.monotonic() - began, 3),
    )


def _day(ds: date, stores: Stores, arms: ModeArms, *, lake: Lake, table: str, scored: bool) -> ScoredDay:
    examples = lake.get(table, ds)
    requests = read_requests(lake, examples)
    stores.begin(ds)
    served = stores.serve(ds, examples, requests)
    evaluation = arms.evaluate(lake, examples, requests, served) if scored else None
    training = arms.train(lake, examples, requests, served)
    tallies = {mode: one.tally(requests) for mode, one in served.items()}
    return ScoredDay(ds=ds, evaluation=evaluation, training=training, tallies=tallies)
