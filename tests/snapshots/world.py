"""A tiny user model whose days are made by hand: user features in a real lake, towers of random weights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import torch

from features.arrow import examples_schema, user_features_schema
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from infra.settings import Settings
from snapshots.publish import publish_tower
from snapshots.registry import Registry, Version
from tests.snapshots.tiny import DAYS, GOOD, START, TinySource, tiny_recipe
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.trained import TrainedDay

__all__ = [
    "DAYS",
    "GOOD",
    "START",
    "TinySource",
    "commit_users",
    "make_tower",
    "newest",
    "publish_day",
    "tiny_recipe",
    "trained_day",
]


def make_tower(recipe: Recipe, *, seed: int = 0, noise: float = 0.0) -> UserTower:
    """A tower of random weights; `noise` moves them away from those of the same seed."""
    torch.manual_seed(seed)
    tower = UserTower(recipe.source.schema, recipe.user_tower)
    with torch.no_grad():
        for name, weights in tower.state_dict().items():
            if "embedding_bags" in name:
                weights.normal_()
        generator = torch.Generator().manual_seed(hash((seed, noise)) % 2**31)
        for weights in tower.state_dict().values():
            weights.add_(noise * torch.randn(weights.shape, generator=generator))
    return tower.eval().requires_grad_(False)  # matmul adds in another order for weights that are learnt


def commit_users(lake: Lake, ds: date, user_ids: Sequence[int], *, seed: int = 0) -> Partition:
    """The day's user features. A user's features depend on (id, seed) alone."""
    source = TinySource()
    rows = []
    for user in user_ids:
        rng = np.random.default_rng([user, seed])
        rows.append(
            {
                "user_id": user,
                "event_time": datetime(ds.year, ds.month, ds.day, 12, tzinfo=UTC),
                "liked": rng.integers(0, 10**6, rng.integers(0, 4)).tolist(),
                "seen": rng.integers(0, 10**6, 3).tolist(),
                "age": float(rng.integers(10, 90)),
            }
        )
    schema = user_features_schema(source.schema)
    data = pa.Table.from_pylist(rows, schema=schema)
    return lake.commit("user_features/tiny", ds, data, fingerprint=fingerprint(ds, list(user_ids), seed))


def publish_day(
    recipe: Recipe,
    ds: date,
    tower: UserTower,
    *,
    settings: Settings,
    metrics: dict[str, float | None] | None = None,
    parent: Version | None = None,
    salt: str = "",
) -> Version:
    """Publish `tower` as if it had been trained on `ds`."""
    return publish_tower(
        recipe, trained_day(ds, settings=settings, metrics=metrics, parent=parent, salt=salt), lambda: tower,
        settings=settings,
    )  # fmt: skip


def trained_day(
    ds: date,
    *,
    settings: Settings,
    metrics: dict[str, float | None] | None = None,
    parent: Version | None = None,
    salt: str = "",
) -> TrainedDay:
    lake = Lake(settings.lake)
    data = pa.Table.from_pylist([], schema=examples_schema(TinySource().schema))
    return TrainedDay(
        model="tiny",
        ds=ds,
        fingerprint=fingerprint("trained", ds, salt),
        parent_fingerprint=parent.training if parent else None,
        parent_ds=parent.ds if parent else None,
        examples=lake.commit("examples/tiny", ds, data, fingerprint=fingerprint("examples", ds)),
        num_examples=0,
        metrics={"click": metrics or dict(GOOD)},
        seconds=1.0,
        ranks=1,
        revision=0,
        path=settings.checkpoints / "tiny",
    )


def newest(settings: Settings, ds: date) -> Version:
    return Registry(settings).get("tiny", ds)
