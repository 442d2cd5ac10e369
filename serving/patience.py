"""How a worker that should lose nothing meets a store that does not answer: it tries again, until it is told to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT_SECONDS = 1.0
_FIRST_WAIT_SECONDS = 0.05


class Patience:
    """statistics: with a counter `store_errors`. drain_seconds: how long a worker that should end still tries."""

    def __init__(self, statistics: Statistics, *, drain_seconds: float) -> None:
        self._statistics, self._drain_seconds = statistics, drain_seconds
        self.stopping, self._give_up = threading.Event(), float("inf")

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._give_up = time.monotonic() + self._drain_seconds
        self.stopping.set()

    def until_done(
        self, work: Callable[[], T], unavailable: type[Exception] | tuple[type[Exception], ...] = UNAVAILABLE
    ) -> T:
        """What `work` gives, tried until it does: until then nothing more is taken. When stopping, for
        `drain_seconds`; then its error is raised."""
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return work()
            except unavailable as error:
                if time.monotonic() > self._give_up:
                    raise
                self.trouble(error, wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def trouble(self, error: Exception, wait_seconds: float = LONGEST_WAIT_SECONDS) -> None:
        """Count it, and wait."""
        self._statistics.count("store_errors")
        log.warning("no answer (%s); tried again in %.2f s", error, wait_seconds)
        time.sleep(wait_seconds)
