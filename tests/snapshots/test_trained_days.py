"""The steps on two days that were really generated and really trained."""

from __future__ import annotations

import pytest

from features.lake import Lake
from features.schema import PACKED_FROM
from infra.settings import Settings
from snapshots.registry import Registry
from tests.snapshots.trained import SMALL_DAYS, run_day, small_recipe
from trainer.recipe import Recipe


@pytest.mark.slow
def test_two_days_from_log_to_champion(small_days: tuple[Recipe, Settings]) -> None:
    _assert_promoted(small_days[1])


@pytest.mark.slow
def test_two_packed_days_from_log_to_champion(settings: Settings) -> None:
    settings = settings.model_copy(update={"ranks": 1})
    for ds in SMALL_DAYS[:2]:
        run_day(small_recipe(num_sparse=PACKED_FROM), ds, settings)
    _assert_promoted(settings)


def _assert_promoted(settings: Settings) -> None:
    champion = Registry(settings).alias("small", "champion")
    assert champion is not None
    assert (champion.number, champion.parent, champion.ds) == (2, 1, SMALL_DAYS[1])
    pooled = Lake(settings.lake).read(champion.embeddings, columns=["num_pooled"])["num_pooled"].to_pylist()
    assert set(pooled) == {1, 2}, "new users, and users seen on both days"
