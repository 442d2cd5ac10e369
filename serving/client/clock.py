"""The store's clock, as a client knows it: its own clocks may be wrong, and ages are to be right."""

from __future__ import annotations

import time
from collections import deque

_KEPT = 8
"""Measurements: the one of the shortest round trip counts (NTP's rule), so a late answer does not move the clock."""


class StoreClock:
    """This machine's monotonic clock and an offset. Until something is measured: this machine's own time."""

    def __init__(self) -> None:
        self._measured: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._offset_ms = 1000 * (time.time() - time.monotonic())

    def now_ms(self) -> float:
        """Milliseconds since the epoch by the store's clock."""
        return 1000 * time.monotonic() + self._offset_ms

    @property
    def uncertainty_ms(self) -> float:
        """Half the round trip of the measurement that counts; infinite before the first."""
        return min((trip for trip, _ in self._measured), default=float("inf")) / 2

    def measured(self, *, asked: float, answered: float, store_ms: float) -> None:
        """The store said `store_ms` between these times of `time.monotonic`."""
        offset_ms = store_ms - 1000 * (asked + answered) / 2
        trip_ms = 1000 * (answered - asked)
        if any(abs(offset_ms - offset) > (trip_ms + trip) / 2 + 1000 for trip, offset in self._measured):
            self._measured.clear()  # the store's clock was set, or the store is another one now
        self._measured.append((trip_ms, offset_ms))
        self._offset_ms = min(self._measured)[1]
