"""The steps on two days that were really generated and really trained."""

from __future__ import annotations

from datetime import date

import pytest
import torch

from features.examples import build_examples
from features.lake import Lake
from features.schema import PACKED_FROM
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings
from snapshots.export import load_snapshot
from snapshots.gate import gate
from snapshots.graph import weights_of
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.publish import publish
from snapshots.registry import Registry
from snapshots.shift.measure import check_shift
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer.job import train
from trainer.recipe import Recipe, Schedule, Task
from trainer.trained import find_trained, load_user_tower

DAYS = (date(2026, 1, 1), date(2026, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("num_sparse", [4, PACKED_FROM], ids=["columns", "packed"])
def test_two_days_from_log_to_champion(settings: Settings, num_sparse: int) -> None:
    recipe = Recipe(
        name="small",
        source=SyntheticWorld(name="small", num_users=500, num_items=200, events_per_day=4_000, num_sparse=num_sparse),
        tasks=(Task(name="click"), Task(name="conversion")),
        schedule=Schedule(start=DAYS[0]),
        user_tower=tiny_user_tower(dim=8),
        mix_tower=tiny_mix_tower(),
    )
    settings = settings.model_copy(update={"ranks": 1})
    for ds in DAYS:
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
    champion = Registry(settings).alias("small", "champion")
    assert champion is not None
    assert (champion.number, champion.parent, champion.ds) == (2, 1, DAYS[1])
    pooled = Lake(settings.lake).read(champion.embeddings, columns=["num_pooled"])["num_pooled"].to_pylist()
    assert set(pooled) == {1, 2}, "new users, and users seen on both days"
