"""Days of a lab as the replay sees promoted ones: towers and vectors in memory, nothing published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from features.batches import Encoder
from features.lake import Lake, Partition
from features.schema import USER_ID
from infra.experiments.lab import Lab
from infra.experiments.towers import DailyTowers
from serving.replay.requests import times_ms
from serving.replay.snapshots import Embeds, Loaded, PromotedDays
from snapshots.embedder import USERS_PER_FORWARD, require_finite
from snapshots.embeddings import fp16_exact
from trainer.model.user_tower import UserTower


class TowerEmbedder:
    """A tower in memory as `snapshots.embedder.Embedder` would be of its snapshot: the same vectors to the bit."""

    def __init__(self, tower: UserTower, encoder: Encoder) -> None:
        self._tower = tower.requires_grad_(False)  # matmul adds in another order for weights that are learnt
        self._encoder = encoder

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""
        return self._encoder.columns

    def embed(self, rows: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float32]:
        """[B, K, D], fp16-exact. ValueError names a user whose vector is not finite."""
        if not rows.num_rows:
            return np.empty((0, self._tower.num_embeddings, self._tower.dim), dtype=np.float32)
        size = min(USERS_PER_FORWARD, rows.num_rows)
        batches = self._encoder.batches(rows, order=np.arange(rows.num_rows), batch_size=size)
        with torch.inference_mode():
            found = [self._tower(batch.user_sparse, batch.user_dense).numpy() for batch in batches]
        vectors = fp16_exact(np.concatenate(found)[: rows.num_rows])
        require_finite(vectors, rows.column(USER_ID))
        return vectors


@dataclass(frozen=True, kw_only=True)
class TowerDay:
    """A day of a user model that was trained in this process; days are counted from 0, versions from 1."""

    lab: Lab
    towers: DailyTowers
    day: int

    @property
    def ds(self) -> date:
        """The day that was learnt last."""
        return self.lab.days[self.day]

    @property
    def number(self) -> int:
        """The version."""
        return self.day + 1

    @cached_property
    def user_features(self) -> Partition:
        """The day's active users."""
        return self.lab.lake.get(f"user_features/{self.lab.source.name}", self.ds)

    def embedder(self) -> Embeds:
        """Its user tower."""
        return TowerEmbedder(self.towers.towers[self.day], Encoder(self.towers.recipe.schema, sides=("user",)))

    def load(self, lake: Lake, *, num_embeddings: int, dim: int) -> Loaded:
        """The computed vectors of the day's active users."""
        users, vectors = self.lab.users[self.day], self.towers.embed(self.day, self.day)
        assert vectors.shape[1:] == (num_embeddings, dim), f"{vectors.shape} are no {num_embeddings} vectors of {dim}"
        return users.ids, times_ms(users.times), vectors.astype(np.float16)


def promoted(lab: Lab, towers: DailyTowers, *, days: Sequence[int] | None = None) -> PromotedDays:
    """These days, or all of them, as if each had been promoted."""
    chosen = range(len(lab.days)) if days is None else days
    return PromotedDays(days=tuple(TowerDay(lab=lab, towers=towers, day=day) for day in chosen))
