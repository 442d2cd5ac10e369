"""Days of the tiny world, published, embedded, measured and judged in one call."""

from __future__ import annotations

from features.lake import Lake
from infra.settings import Settings
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.registry import Registry, Version
from snapshots.shift.measure import check_shift
from tests.snapshots.world import DAYS, commit_users, make_tower, newest, publish_day
from trainer.recipe import Recipe

STILL = 0.001
FAR = 5.0


def judged_day(recipe: Recipe, ds: int, settings: Settings, *, noise: float = STILL, ne: float = 0.9) -> Version:
    """The `ds`-th day: 40 users, warm-started from the day before, not decided."""
    commit_users(Lake(settings.lake), DAYS[ds], range(ds, 40 + ds))
    parent = Registry(settings).find("tiny", DAYS[ds - 1]) if ds else None
    version = publish_day(
        recipe, DAYS[ds], make_tower(recipe, noise=noise * ds), settings=settings, parent=parent,
        metrics={"ne": ne, "calibration": 1.0, "auc": 0.7},
    )  # fmt: skip
    infer(recipe, DAYS[ds], settings=settings)
    check_shift(recipe, DAYS[ds], settings=settings)
    gate(recipe, DAYS[ds], settings=settings)
    return version


def promoted_day(recipe: Recipe, ds: int, settings: Settings) -> Version:
    """The same, promoted by the gate."""
    judged_day(recipe, ds, settings)
    promote(recipe, DAYS[ds], settings=settings, by="gate")
    return newest(settings, DAYS[ds])
