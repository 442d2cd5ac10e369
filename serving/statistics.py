"""What a client counts, per model: ERCache's hits, skips, failovers and fallbacks, and how stale the answers were."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from serving.client.answer import Answer

Event = Literal["reads_late", "reads_broken", "reads_not_tried", "refreshes_failed", "sends_failed"]
"""Of a whole client: what went wrong between it and the store."""
STALENESS_SECONDS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 1_209_600.0)
"""Upper ends of the histogram's buckets; above is one more."""


class ModelCounts:
    """Of one model."""

    def __init__(self) -> None:
        self.origins: Counter[str] = Counter()
        self.defaults: Counter[str] = Counter()
        """By reason."""
        self.computations: Counter[str] = Counter()
        """What became of the requests' own inferences: queued, coalesced (the user waited already), skipped (direct),
        off, dropped (the client's buffer was full), shed (the stream was), rate_limited, no_features, future, failed;
        real-time ones: computed, late and so on."""
        self.fallbacks = 0
        """Real-time requests that their own inference was not ready for."""
        self.staleness = [0] * (len(STALENESS_SECONDS) + 1)
        """Answers by the age of the newest features in them. Defaults have none."""
        self.staleness_sum_seconds = 0.0

    def snapshot(self) -> dict[str, Any]:
        """A copy: numbers, and numbers by name."""
        requests = self.origins.total()
        return {
            "requests": requests,
            "hits": requests - self.origins["default"],
            "skips": self.origins["direct"],
            "failovers": self.origins["failover"],
            "fallbacks": self.fallbacks,
            "origins": dict(self.origins),
            "defaults": dict(self.defaults),
            "computations": dict(self.computations),
            "staleness": list(self.staleness),
            "staleness_sum_seconds": self.staleness_sum_seconds,
        }


class Statistics:
    """Of one client. Thread-safe."""

    def __init__(self, models: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._models = {model: ModelCounts() for model in models}
        self._events: Counter[str] = Counter()

    def answered(self, answers: Iterable[Answer], now_ms: float) -> None:
        """Count what was answered at `now_ms` of the store's clock."""
        with self._lock:
            for answer in answers:
                counts = self._models[answer.model]
                counts.origins[answer.origin] += 1
                if answer.computation != "queued":  # those the sender counts, when it knows what became of them
                    counts.computations[answer.computation] += 1
                if answer.feature_ms:
                    staleness = max(now_ms - answer.feature_ms[0], 0.0) / 1000
                    counts.staleness[bisect_left(STALENESS_SECONDS, staleness)] += 1
                    counts.staleness_sum_seconds += staleness
                else:
                    counts.defaults[answer.reason] += 1

    def fell_back(self, models: Iterable[str]) -> None:
        """Count real-time requests without their own inference."""
        with self._lock:
            for model in models:
                self._models[model].fallbacks += 1

    def sent(self, models: Iterable[str], outcome: str, count: int = 1) -> None:
        """Count what became of inferences."""
        with self._lock:
            for model in models:
                self._models[model].computations[outcome] += count

    def event(self, name: Event) -> None:
        """Count something of the whole client: late and broken reads, refusals by the breaker, failed sends."""
        with self._lock:
            self._events[name] += 1

    def snapshot(self) -> dict[str, Any]:
        """`models`: `ModelCounts.snapshot` by name; `events`: counts by name."""
        with self._lock:
            return {
                "models": {model: counts.snapshot() for model, counts in self._models.items()},
                "events": dict(self._events),
            }
