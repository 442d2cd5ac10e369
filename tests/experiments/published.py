"""The published days of one strategy: maps and partitions of embeddings, over towers that others may share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.lake import Lake, Partition
from infra.experiments.towers import DailyTowers, DayOfUsers, Vectors
from snapshots.alignment import fit
from snapshots.embeddings import embeddings_schema, fp16_exact, table_of, to_lists
from snapshots.pooling import Cached
from trainer.recipe import Recipe
from trainer.stabilizers import Alignment, Regularizer


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to keep embeddings where they are."""

    name: str
    regularizers: tuple[Regularizer, ...] = ()
    alignment: Alignment | None = None
    pooling: int = 1


@dataclass(kw_only=True)
class Published:
    """The days of one strategy."""

    strategy: Strategy
    towers: DailyTowers
    maps: list[NDArray[np.float32] | None] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)

    def computed(self, version: int, day: int) -> Vectors:
        """[N, K, D]: the users of the day by the snapshot of day `version`, its map included."""
        vectors, matrix = self.towers.embed(version, day), self.maps[version]
        if matrix is None:
            return vectors
        return fp16_exact((vectors.reshape(len(vectors), -1) @ matrix).reshape(vectors.shape))

    def align(self, day: int) -> None:
        """Fit the map of the day's snapshot to the one before, on all users of the day."""
        if self.strategy.alignment is None or not day:
            self.maps.append(None)
            return
        new, old = self.towers.embed(day, day), self.computed(day - 1, day)
        self.maps.append(fit(self.strategy.alignment, new, old).matrix)

    def infer(self, day: int, ds: date, *, lake: Lake, users: DayOfUsers, recipe: Recipe) -> None:
        """The partition of the day's embeddings, pooled with those of the days before."""
        k, dim = recipe.user_tower.num_embeddings, recipe.user_tower.dim
        computed = self.computed(day, day)
        cached = Cached(lake, self.partitions[::-1], num_embeddings=k, dim=dim, versions=self.strategy.pooling)
        history = cached.of(users.ids)
        pooled, num_pooled = history.pool(users.ids, computed)
        rows = pa.Table.from_arrays(
            [
                pa.array(users.ids),
                *(to_lists(vectors[:, i]) for vectors in (computed, pooled) for i in range(k)),
                pa.array(num_pooled),
                pa.repeat(pa.scalar(day + 1, pa.int32()), len(users.ids)),
                users.times,
            ],
            schema=embeddings_schema(num_embeddings=k, dim=dim, model=recipe.name),
        )
        content = hashlib.sha256(pooled.tobytes() + computed.tobytes()).hexdigest()
        partition = lake.commit(table_of(recipe.name), ds, rows, fingerprint=content)
        self.partitions.append(partition)
