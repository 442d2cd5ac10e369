"""The promoted days of a model: what serves on a day is the newest of the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from features.windows import Windows, pieces_of
from serving.replay.entries import Vectors
from serving.replay.requests import Ints, times_ms
from snapshots.embedder import Embedder
from snapshots.embeddings import FEATURE_TIME, VERSION, stack
from snapshots.registry import Registry

_USERS_AT_A_TIME = 8_192


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """One day's snapshot and what it made of the day's users."""

    ds: date
    number: int
    path: Path
    manifest_sha256: str | None
    embeddings: Partition
    """Of `user_embeddings/<model>`."""
    user_features: Partition

    def embedder(self) -> Embedder:
        """Its user tower, checksums verified."""
        return Embedder(self.path, manifest_sha256=self.manifest_sha256)


@dataclass(frozen=True, kw_only=True)
class PromotedDays:
    """Oldest first; at least one."""

    days: tuple[Promoted, ...]

    @classmethod
    def of(cls, model: str, source: str, *, registry: Registry, lake: Lake, before: date) -> PromotedDays:
        """Those in the registry. ValueError where there is none."""
        found = [
            Promoted(
                ds=version.ds,
                number=version.number,
                path=version.path,
                manifest_sha256=version.tags["manifest_sha256"],
                embeddings=version.visible,
                user_features=lake.get(f"user_features/{source}", version.ds),
            )
            for version in reversed(registry.promoted(model, before=before))
            if version.visible is not None
        ]
        if not found:
            raise ValueError(f"{model} has no promoted day before {before}; run its days first, or replay later days")
        return cls(days=tuple(found))

    def champion(self, ds: date) -> Promoted:
        """What serves on `ds`. ValueError: no day before it is promoted."""
        earlier = self.before(ds)
        if not earlier:
            raise ValueError(f"no day before {ds} is promoted (the first is {self.days[0].ds}); replay later days")
        return earlier[-1]

    def before(self, ds: date, *, days: int | None = None) -> Sequence[Promoted]:
        """Those of days before `ds`, at most so many days back, oldest first."""
        return [d for d in self.days if d.ds < ds and (days is None or d.ds >= ds - timedelta(days=days))]

    def get(self, ds: date) -> Promoted:
        """That day. ValueError names the known ones."""
        for day in self.days:
            if day.ds == ds:
                return day
        raise ValueError(f"{ds} is not promoted; known: {', '.join(str(day.ds) for day in self.days)}")


Loaded = tuple[Ints, Ints, Vectors]
"""User ids, feature times in ms, computed vectors [N, K, D]."""


def load(day: Promoted, lake: Lake, *, num_embeddings: int, dim: int) -> Loaded:
    """The computed vectors that the day's partition holds. ValueError where it is not of the day's version."""
    names = [f"embedding_{k}" for k in range(num_embeddings)]
    rows = lake.read(day.embeddings, columns=[USER_ID, FEATURE_TIME, VERSION, *names])
    if found := sorted(set(rows.column(VERSION).unique().to_pylist()) - {day.number}):
        raise ValueError(f"{day.embeddings.table} ds={day.ds} holds versions {found}, not {day.number} alone")
    vectors = stack(rows, "embedding", num_embeddings=num_embeddings, dim=dim)
    return rows.column(USER_ID).to_numpy(), times_ms(rows.column(FEATURE_TIME)), vectors.astype(np.float16)


def embed_users(day: Promoted, lake: Lake, embedder: Embedder) -> Loaded:
    """The day's active users by another snapshot."""
    parts = list(_embedded(day.user_features, lake, embedder))
    users, times, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return users, times, vectors


def _embedded(users: Partition, lake: Lake, embedder: Embedder) -> Iterator[Loaded]:
    pieces = pieces_of(lake.dataset(users))
    windows = Windows(pieces, [USER_ID, EVENT_TIME, *embedder.columns])
    total = sum(piece.num_rows for piece in pieces)
    for start in range(0, total, _USERS_AT_A_TIME):
        rows = windows.read(start, min(start + _USERS_AT_A_TIME, total))
        vectors = embedder.embed(rows).astype(np.float16)
        yield rows.column(USER_ID).to_numpy(), times_ms(rows.column(EVENT_TIME)), vectors
