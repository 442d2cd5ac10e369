"""The promoted days of a model: what serves on a day is the newest of the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from features.windows import Windows, pieces_of
from serving.replay.entries import Vectors
from serving.replay.requests import Ints, times_ms
from snapshots.embedder import Embedder
from snapshots.embeddings import FEATURE_TIME, VERSION, stack
from snapshots.folder import brought
from snapshots.registry import Registry

_USERS_AT_A_TIME = 8_192


Loaded = tuple[Ints, Ints, Vectors]
"""User ids, feature times in ms, computed vectors [N, K, D]."""


class Embeds(Protocol):
    """A user tower as a function; `snapshots.embedder.Embedder` is one."""

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""

    def embed(self, rows: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float32]:
        """[B, K, D], fp16-exact."""


class PromotedDay(Protocol):
    """One day's snapshot and what it made of the day's users."""

    @property
    def ds(self) -> date:
        """The day that was learnt last."""

    @property
    def number(self) -> int:
        """The version."""

    @property
    def user_features(self) -> Partition:
        """The day's active users."""

    def embedder(self) -> Embeds:
        """Its user tower."""

    def load(self, lake: Lake, *, num_embeddings: int, dim: int) -> Loaded:
        """The computed vectors of the day's active users."""


@dataclass(frozen=True, kw_only=True)
class SealedDay:
    """A day of the registry, its snapshot sealed in a folder."""

    ds: date
    number: int
    path: Path
    manifest_sha256: str | None
    embeddings: Partition
    """Of `user_embeddings/<model>`."""
    user_features: Partition
    uri: str = ""
    """Of the archive, if the folder is there."""

    def embedder(self) -> Embedder:
        """Its user tower, checksums verified."""
        return Embedder(brought(self.path, self.uri), manifest_sha256=self.manifest_sha256)

    def load(self, lake: Lake, *, num_embeddings: int, dim: int) -> Loaded:
        """What the day's partition holds. ValueError where it is not of the day's version."""
        names = [f"embedding_{k}" for k in range(num_embeddings)]
        rows = lake.read(self.embeddings, columns=[USER_ID, FEATURE_TIME, VERSION, *names])
        if found := sorted(set(rows.column(VERSION).unique().to_pylist()) - {self.number}):
            raise ValueError(f"{self.embeddings.table} ds={self.ds} holds versions {found}, not {self.number} alone")
        vectors = stack(rows, "embedding", num_embeddings=num_embeddings, dim=dim)
        return rows.column(USER_ID).to_numpy(), times_ms(rows.column(FEATURE_TIME)), vectors.astype(np.float16)


@dataclass(frozen=True, kw_only=True)
class PromotedDays:
    """Oldest first; at least one."""

    days: tuple[PromotedDay, ...]

    @classmethod
    def of(cls, model: str, source: str, *, registry: Registry, lake: Lake, before: date) -> PromotedDays:
        """Those in the registry. ValueError where there is none."""
        found = [
            SealedDay(
                ds=version.ds,
                number=version.number,
                path=version.path,
                manifest_sha256=version.tags["manifest_sha256"],
                uri=version.reference,
                embeddings=version.visible,
                user_features=lake.get(f"user_features/{source}", version.ds),
            )
            for version in reversed(registry.promoted(model, before=before))
            if version.visible is not None
        ]
        if not found:
            raise ValueError(f"{model} has no promoted day before {before}; run its days first, or replay later days")
        return cls(days=tuple(found))

    def champion(self, ds: date) -> PromotedDay:
        """What serves on `ds`. ValueError: no day before it is promoted."""
        earlier = self.before(ds)
        if not earlier:
            raise ValueError(f"no day before {ds} is promoted (the first is {self.days[0].ds}); replay later days")
        return earlier[-1]

    def before(self, ds: date, *, days: int | None = None) -> Sequence[PromotedDay]:
        """Those of days before `ds`, at most so many days back, oldest first."""
        return [d for d in self.days if d.ds < ds and (days is None or d.ds >= ds - timedelta(days=days))]

    def get(self, ds: date) -> PromotedDay:
        """That day. ValueError names the known ones."""
        for day in self.days:
            if day.ds == ds:
                return day
        raise ValueError(f"{ds} is not promoted; known: {', '.join(str(day.ds) for day in self.days)}")


def embed_users(day: PromotedDay, lake: Lake, embedder: Embeds) -> Loaded:
    """The day's active users by another snapshot."""
    parts = list(_embedded(day.user_features, lake, embedder))
    users, times, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return users, times, vectors


def _embedded(users: Partition, lake: Lake, embedder: Embeds) -> Iterator[Loaded]:
    pieces = pieces_of(lake.dataset(users))
    windows = Windows(pieces, [USER_ID, EVENT_TIME, *embedder.columns])
    total = sum(piece.num_rows for piece in pieces)
    for start in range(0, total, _USERS_AT_A_TIME):
        rows = windows.read(start, min(start + _USERS_AT_A_TIME, total))
        vectors = embedder.embed(rows).astype(np.float16)
        yield rows.column(USER_ID).to_numpy(), times_ms(rows.column(EVENT_TIME)), vectors
