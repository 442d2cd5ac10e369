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

import numpy as np
from numpy.typing import NDArray

from serving.record import RecordError
from serving.solaris.levels import mean
from serving.solaris.record import PairRecord
from serving.solaris.store import PairStore, values_of

log = logging.getLogger(__name__)

TOGETHER = 256
"""Items per round trip."""


class Neighbours:
    """capacity: items that are known, those that were asked for last."""

    def __init__(self, *, capacity: int, stale_seconds: float) -> None:
        self._capacity, self._stale_seconds = capacity, stale_seconds
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[float, NDArray[np.float16] | None]] = OrderedDict()
        """When it was fetched, and the mean; None where the store has none."""
        self._wanted: dict[int, None] = {}

    def __len__(self) -> int:
        """Items that have a mean."""
        with self._lock:
            return sum(found is not None for _, found in self._known.values())

    @property
    def is_behind(self) -> bool:
        """Whether items are to be fetched."""
        return bool(self._wanted)

    def of(self, items: Iterable[int]) -> Mapping[int, NDArray[np.float16]]:
        """The means that are known, [E] each; what is not, or not young, is fetched later."""
        found, young = {}, time.monotonic() - self._stale_seconds
        with self._lock:
            for item in items:
                fetched, vector = self._known.get(item, (-float("inf"), None))
                if vector is not None:
                    found[item] = vector
                if item in self._known:
                    self._known.move_to_end(item)
                if fetched < young and len(self._wanted) < self._capacity:
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
                self._known[item] = time.monotonic(), _mean_of(item, value, store, now_ms=now_ms)
                self._known.move_to_end(item)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)


def _mean_of(item: int, value: bytes | None, store: PairStore, *, now_ms: float) -> NDArray[np.float16] | None:
    if value is None:
        return None
    try:
        record = PairRecord.parse(value)
    except RecordError as error:
        log.warning("the neighbours of item %d: %s", item, error)
        return None
    alive = record.alive(now_ms=now_ms, ttl_seconds=store.model.ttl_seconds, width=store.model.width)
    return mean(alive["vector"]) if len(alive) else None
