"""What the store holds of one user, for people: versions, times, ages, how far the vectors lie from each other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from serving.record import Record, RecordError
from serving.served import Served
from serving.store import Store
from serving.times import moment


@dataclass(frozen=True, kw_only=True)
class EntryView:
    """One computed vector."""

    version: int
    featured_at: datetime
    written_at: datetime
    age_seconds: float
    """Of the features."""
    pooled: bool
    """False: its version is withdrawn, or newer entries are as many as are pooled."""
    cosines: tuple[float, ...]
    """To the newest entry, of each of the K embeddings; NaN for zeros."""


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """The user's record of one model. entries: newest first; none: the user is cold."""

    model: str
    entries: tuple[EntryView, ...]
    seconds_left: float | None
    """Until the record expires."""
    damage: str = ""
    """Why the value is no record."""


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """What is known of the user's features."""

    source: str
    featured_at: datetime | None
    """None: nothing is known."""
    num_bytes: int
    seconds_left: float | None
    queued: bool
    """A request waits to be computed."""


def view_models(store: Store, user: int, models: tuple[str, ...]) -> list[ModelView]:
    """The user's records."""
    served, now = store.served(), time.time()
    return [_model(store, user, model, served.get(model), now=now) for model in models]


def view_sources(store: Store, user: int, sources: tuple[str, ...]) -> list[SourceView]:
    """The user's features."""
    return [_source(store, user, source) for source in sources]


def _model(store: Store, user: int, model: str, served: Served | None, *, now: float) -> ModelView:
    left = _seconds_left(store, store.keys.record(model, user))
    try:
        (record,) = store.read(user, (model,))
    except RecordError as error:
        return ModelView(model=model, entries=(), seconds_left=left, damage=str(error))
    return ModelView(
        model=model, entries=() if record is None else _entries(record, served, now=now), seconds_left=left
    )


def _entries(record: Record, served: Served | None, *, now: float) -> tuple[EntryView, ...]:
    withdrawn = () if served is None else served.withdrawn
    free = len(record.entries) if served is None else served.pooling_versions
    newest = record.entries["vectors"][0].astype(np.float64)
    found = []
    for one in record.entries:
        vectors = one["vectors"].astype(np.float64)
        norms = np.linalg.norm(newest, axis=1) * np.linalg.norm(vectors, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (newest * vectors).sum(axis=1) / norms
        pooled = int(one["version"]) not in withdrawn and free > 0
        free -= pooled
        found.append(
            EntryView(
                version=int(one["version"]),
                featured_at=moment(int(one["feature_ms"])),
                written_at=moment(int(one["write_ms"])),
                age_seconds=round(now - int(one["feature_ms"]) / 1000, 3),
                pooled=pooled,
                cosines=tuple(np.round(cosines, 6).tolist()),
            )
        )
    return tuple(found)


def _source(store: Store, user: int, source: str) -> SourceView:
    key = store.keys.features(source, user)
    value = store.redis.get(key)
    known = value if isinstance(value, bytes) and len(value) >= 8 else b""
    return SourceView(
        source=source,
        featured_at=moment(int.from_bytes(known[:8], "little", signed=True)) if known else None,
        num_bytes=len(known),
        seconds_left=_seconds_left(store, key),
        queued=bool(store.redis.exists(store.keys.queued(source, user))),
    )


def _seconds_left(store: Store, key: str) -> float | None:
    left: Any = store.redis.pttl(key)
    return left / 1000 if left >= 0 else None
