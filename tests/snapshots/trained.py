"""A small model whose days are really generated and really trained: from log to champion in one call."""

from __future__ import annotations

from datetime import date

import torch

from features.examples import build_examples
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings
from snapshots.export import load_snapshot
from snapshots.gate import gate
from snapshots.graph import weights_of
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.publish import publish
from snapshots.shift.measure import check_shift
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer.job import train
from trainer.recipe import Recipe, Schedule, Task
from trainer.trained import find_trained, load_user_tower

SMALL_DAYS = (date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3))


def small_recipe(*, num_sparse: int = 4) -> Recipe:
    return Recipe(
        name="small",
        source=SyntheticWorld(name="small", num_users=500, num_items=200, events_per_day=4_000, num_sparse=num_sparse),
        tasks=(Task(name="click"), Task(name="conversion")),
        schedule=Schedule(start=SMALL_DAYS[0]),
        user_tower=tiny_user_tower(dim=8),
        mix_tower=tiny_mix_tower(),
    )


def run_day(recipe: Recipe, ds: date, settings: Settings) -> None:
    """Every step of the day; what is published must be what was trained, bit for bit."""
    built = build_examples(recipe.source, ds, settings=settings, reject_max_share=recipe.reject_max_share)
    train(recipe, ds, settings=settings)
    version = publish(recipe, ds, settings=settings)
    trained = find_trained(settings, recipe.name, ds)
    assert trained is not None
    before = weights_of(load_user_tower(recipe, trained), "fp32")
    after = load_snapshot(version.path, manifest_sha256=version.tags["manifest_sha256"]).weights
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before), "published bit for bit"
    assert infer(recipe, ds, settings=settings).num_users == built.num_users
    check_shift(recipe, ds, settings=settings)
    gate(recipe, ds, settings=settings)
    promote(recipe, ds, settings=settings, by="test")
