"""Two user models of the tiny world, of other K and D, each of which knows a part of the users."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import TIME
from features.lake import Lake, Partition
from tests.trainer.downstream_world import CTR, TASTES, TOWER, UPSTREAM, World, end_of, lists
from trainer.recipe import Recipe
from trainer.towers import UserTower

FIRST = replace(UPSTREAM, name="first")
SECOND = replace(UPSTREAM, name="second", user_tower=replace(TOWER, num_embeddings=1, dim=4))
MODELS = (FIRST, SECOND)
BOTH = replace(CTR, name="tiny_both", upstreams=("first", "second"))


def commit_embeddings(world: World, model: Recipe, ds: date, *, seed: int = 0) -> Partition:
    """The tastes, mixed linearly: the first model knows 80 % of the users, the second one the last 60 %."""
    known = slice(None, int(0.8 * world.num_users)) if model is FIRST else slice(int(0.4 * world.num_users), None)
    mixing = np.random.default_rng(2).normal(size=(TASTES, width(model.user_tower)))
    return commit_vectors(world.lake, model, ds, world.user_ids[known], world.tastes[known] @ mixing, salt=seed)


def commit_vectors(
    lake: Lake,
    model: Recipe,
    ds: date,
    user_ids: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float64],
    *,
    salt: int = 0,
    late: timedelta = timedelta(0),
) -> Partition:
    """`vectors` [U, K * D] as the day's pooled embeddings; they are rounded to fp16."""
    table = vectors_table(model.user_tower, user_ids, vectors, end_of(ds) + late)
    fingerprint = f"{model.name}{ds}{salt}".encode().hex()
    return lake.commit(f"user_embeddings/{model.name}", ds, table, fingerprint=f"{fingerprint:0<64}")


def vectors_table(
    tower: UserTower, user_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float64], feature_time: datetime
) -> pa.Table:
    """What consumers read of a day, as far as they read it."""
    exact = vectors.astype(np.float16).astype(np.float32)
    parts = np.split(exact, tower.num_embeddings, axis=1)
    return pa.table(
        {
            "user_id": pa.array(user_ids),
            **{f"pooled_{k}": lists(part.ravel(), tower.dim) for k, part in enumerate(parts)},
            "feature_time": pa.array([feature_time] * len(user_ids), TIME),
        }
    )


def width(tower: UserTower) -> int:
    """K * D."""
    return tower.num_embeddings * tower.dim
