"""What the store holds of a user's pairs, for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.compute.queue import store_ms
from serving.record import RecordError
from serving.solaris.queue import PairQueue
from serving.solaris.store import PairStore
from serving.times import moment


@dataclass(frozen=True, kw_only=True)
class PairView:
    """One representation."""

    item: int
    version: int
    featured_at: datetime
    written_at: datetime
    age_seconds: float
    """Since it was written, by the store's clock."""
    priority: float
    alive: bool
    """False: it has outlived its time, and is not served."""


@dataclass(frozen=True, kw_only=True)
class UserPairs:
    """Of one foundation model. pairs: in the record's order."""

    model: str
    user: int
    width: int
    pairs: tuple[PairView, ...]
    waiting: int
    """Pairs of all users on the queue."""
    leased: int
    aside: int
    damage: str = ""
    """Why the value is no record."""


def view_pairs(store: PairStore, user: int) -> UserPairs:
    """The user's pairs, and how the queue is."""
    keys = store.keys.keys
    waiting, leased, aside = PairQueue(store.redis, store.model, keys, range(keys.partitions)).length()
    pairs, damage, now_ms = tuple[PairView, ...](), "", store_ms(store.redis)
    try:
        record = store.read(user)
        pairs = () if record is None else tuple(_pair(store, entry, now_ms) for entry in record.entries)
    except RecordError as error:
        damage = str(error)
    return UserPairs(
        model=store.model.name, user=user, width=store.model.width, pairs=pairs, waiting=waiting, leased=leased,
        aside=aside, damage=damage,
    )  # fmt: skip


def _pair(store: PairStore, entry: Any, now_ms: int) -> PairView:
    age = (now_ms - int(entry["write_ms"])) / 1000
    return PairView(
        item=int(entry["member"]),
        version=int(entry["version"]),
        featured_at=moment(int(entry["feature_ms"])),
        written_at=moment(int(entry["write_ms"])),
        age_seconds=round(age, 3),
        priority=round(float(entry["priority"]), 6),
        alive=age < store.model.ttl_seconds,
    )
