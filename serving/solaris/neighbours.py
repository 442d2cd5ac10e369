"""The items' means over their newest users, as a reader knows them: fetched behind its answers, forgotten when full.

They lie in other slots than the user's pairs, so a read never asks for them. An item that is asked for by a cold user
is fetched then, and again when it is older than `stale_seconds` and asked for; the user after that is served its mean.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.record import RecordError
from serving.solaris.levels import mean
from serving.solaris.record import PairRecord
from serving.solaris.store import PairStore, values_of

log = logging.getLogger(__name__)

TOGETHER = 256
"""Items per round trip."""


class _Known(NamedTuple):
    fetched: float
    """By the monotonic clock."""
    expires_ms: float = 0.0
    """By the store's: when the newest representation has outlived its time."""
    vector: NDArray[np.float16] | None = None
    """The mean; None where the store has none."""


_NEVER = _Known(-float("inf"))


class Neighbours:
    """capacity: items that are known, those that were asked for last."""

    def __init__(self, *, capacity: int, stale_seconds: float) -> None:
        self._capacity, self._stale_seconds = capacity, stale_seconds
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._wanted: dict[int, None] = {}

    def __len__(self) -> int:
        """Items that have a mean."""
        with self._lock:
            return sum(one.vector is not None for one in self._known.values())

    @property
    def is_behind(self) -> bool:
        """Whether items are to be fetched."""
        return bool(self._wanted)

    def of(self, items: Iterable[int], *, now_ms: float) -> Mapping[int, NDArray[np.float16]]:
        """The means that are known and of whose representations one is alive, [E] each; what is not, or not young, is
        fetched later. now_ms: by the store's clock."""
        found, young = {}, time.monotonic() - self._stale_seconds
        with self._lock:
            for item in items:
                known = self._known.get(item, _NEVER)
                if known.vector is not None and now_ms < known.expires_ms:
                    found[item] = known.vector
                if known is not _NEVER:
                    self._known.move_to_end(item)
                if known.fetched < young and len(self._wanted) < self._capacity:
                    self._wanted[item] = None
        return found

    def fetch(self, store: PairStore, *, now_ms: float) -> None:
        """Some that are wanted, in one round trip. redis.RedisError: they are wanted still."""
        with self._lock:
            wanted = list(self._wanted)[:TOGETHER]
        values = values_of(store.redis, [store.keys.item(item) for item in wanted])
        with self._lock:
            for item, value in zip(wanted, values, strict=True):
                self._wanted.pop(item, None)
                self._known[item] = _known(item, value, store, now_ms=now_ms)
                self._known.move_to_end(item)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)


def _known(item: int, value: bytes | None, store: PairStore, *, now_ms: float) -> _Known:
    nothing = _Known(time.monotonic())
    if value is None:
        return nothing
    try:
        record = PairRecord.parse(value)
    except RecordError as error:
        log.warning("the neighbours of item %d: %s", item, error)
        return nothing
    alive = record.alive(now_ms=now_ms, ttl_seconds=store.model.ttl_seconds, width=store.model.width)
    if not len(alive):
        return nothing
    expires_ms = float(alive["write_ms"].max()) + 1000 * store.model.ttl_seconds
    return _Known(nothing.fetched, expires_ms, mean(alive["vector"]))
