"""What a worker counts, and how Prometheus reads it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Labels = tuple[tuple[str, str], ...]

LATENCY_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Bounds of the buckets."""
PREFIX = "usermodel_compute"
COUNTERS = {
    "received": "Entries taken off the stream of requests",
    "claimed": "Entries taken over from a worker that did not get them done",
    "done": "Entries that are off the stream, computed or not",
    "coalesced": "Entries of a user who was in the batch already",
    "computed": "Users' vectors of one model",
    "written": "Users' vectors of one model that the store keeps",
    "late": "Users' vectors that were older than all that the store keeps",
    "refused": "Users that could not be computed, by reason",
    "set_aside": "Entries that were delivered too often",
    "batches": "Micro-batches",
    "failed": "Micro-batches that were left for another try",
    "swaps": "Champions put to work",
    "champions_refused": "Champions that are damaged, or do not compute",
    "registry_errors": "Looks at MLflow that failed",
    "store_errors": "Calls of the store that failed and were repeated",
    "busy_seconds": "Seconds that the thread which computes was computing",
}
GAUGES = {
    "queue_length": "Entries on the stream of requests",
    "queue_oldest_seconds": "Age of the oldest entry on the stream",
    "champion_version": "The version that computes",
    "up": "1 while it works; 0 while it has no champion",
}


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What somebody counts: counters and gauges with their meanings, and one histogram."""

    prefix: str
    counters: Mapping[str, str]
    gauges: Mapping[str, str]
    histogram: str
    histogram_meaning: str
    bounds: Sequence[float]


COMPUTE = Counted(
    prefix=PREFIX,
    counters=COUNTERS,
    gauges=GAUGES,
    histogram="latency_seconds",
    histogram_meaning="From a request's arrival on the stream to its vectors in the store",
    bounds=LATENCY_SECONDS,
)


class Statistics:
    """Safe among threads."""

    def __init__(self, counted: Counted = COMPUTE) -> None:
        self._lock = threading.Lock()
        self._counted = counted
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._latency = [0] * (len(counted.bounds) + 1)
        self._latency_sum = 0.0

    def count(self, name: str, number: float = 1, **labels: str) -> None:
        """Add to a counter."""
        assert name in self._counted.counters, name
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += number  # type: ignore[assignment]

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        assert name in self._counted.gauges, name
        with self._lock:
            self._gauges[name, tuple(sorted(labels.items()))] = value

    def took(self, seconds: Sequence[float]) -> None:
        """Into the histogram: from the arrival of requests to their vectors in the store."""
        import numpy as np

        counts = np.bincount(np.searchsorted(self._counted.bounds, seconds), minlength=len(self._latency))
        with self._lock:
            self._latency = [earlier + more for earlier, more in zip(self._latency, counts.tolist(), strict=True)]
            self._latency_sum += float(sum(seconds))

    def total(self, name: str, **labels: str) -> float:
        """Of a counter, over all labels but those given."""
        wanted = set(labels.items())
        with self._lock:
            return sum(value for (one, has), value in self._counts.items() if one == name and wanted <= set(has))

    def snapshot(self) -> dict[str, Any]:
        """Everything, by name and labels: `{"written": {"model=demo": 3}, …}`."""
        with self._lock:
            found: dict[str, Any] = {}
            for (name, labels), value in [*self._counts.items(), *self._gauges.items()]:
                found.setdefault(name, {})[",".join(f"{key}={one}" for key, one in labels)] = value
            return {**found, "latency": {"buckets": list(self._latency), "sum_seconds": self._latency_sum}}

    def families(self) -> Iterator[Any]:
        """As `prometheus_client` collects them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counted = self._counted
        with self._lock:
            counts, gauges = dict(self._counts), dict(self._gauges)
            latency, total = list(self._latency), self._latency_sum
        for names, family, values in (
            (counted.counters, CounterMetricFamily, counts),
            (counted.gauges, GaugeMetricFamily, gauges),
        ):
            for name, help_text in names.items():
                yield _family(family, f"{counted.prefix}_{name}", help_text, _named(name, values))
        buckets, seen = [], 0
        for bound, number in zip([*map(str, counted.bounds), "+Inf"], latency, strict=True):
            seen += number
            buckets.append((bound, seen))
        histogram = HistogramMetricFamily(f"{counted.prefix}_{counted.histogram}", counted.histogram_meaning)
        histogram.add_metric([], buckets, sum_value=total)
        yield histogram


class Exposed:
    """A collector: `prometheus_client.CollectorRegistry().register(Exposed(statistics))`."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Any]:
        """Every family, at this moment."""
        return self._statistics.families()


def _named(name: str, values: Mapping[tuple[str, Labels], float]) -> dict[Labels, float]:
    return {labels: value for (one, labels), value in values.items() if one == name}


def _family(family: Any, name: str, help_text: str, values: Mapping[Labels, float]) -> Any:
    names = sorted({key for labels in values for key, _ in labels})
    made = family(name, help_text, labels=names)
    for labels, value in values.items():
        made.add_metric([dict(labels).get(key, "") for key in names], value)
    return made
