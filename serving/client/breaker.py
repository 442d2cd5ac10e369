"""A circuit breaker: after some failures in a row nobody waits for the store, except one who tries it now and then."""

from __future__ import annotations

import threading


class Breaker:
    """Closed until `failures` calls in a row failed. Then open for `pause_seconds` at a time: the first caller after
    each is the probe, and the breaker closes when a probe succeeds. Times are of `time.monotonic`. Thread-safe.
    """

    def __init__(self, *, failures: int = 5, pause_seconds: float = 0.25) -> None:
        self._limit, self._pause_seconds = failures, pause_seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._probe_at: float | None = None
        self.opened = 0
        """How often it has opened."""

    @property
    def is_open(self) -> bool:
        """Whether callers are turned away."""
        return self._probe_at is not None

    def allows(self, now: float) -> bool:
        """Whether this caller may ask. One who may tells how it ended, unless it did not come to asking."""
        if self._probe_at is None:
            return True
        with self._lock:
            if now < (self._probe_at or 0.0):  # another thread may just have closed it
                return False
            if self._probe_at is not None:
                self._probe_at = now + self._pause_seconds
            return True

    def succeeded(self) -> None:
        """The call was answered."""
        if self._failures:
            with self._lock:
                self._failures, self._probe_at = 0, None

    def failed(self, now: float) -> None:
        """The call was late, or the connection broke."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self.opened += self._probe_at is None
                self._probe_at = now + self._pause_seconds
