"""What serving tells Prometheus: every metric by name, kind, labels and meaning, for whoever counts it.

The client library counts in plain integers, which `serving.exposition` reads when Prometheus asks: a read pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.compute import statistics
from serving.compute.statistics import Counted
from serving.solaris.statistics import READER, WORKER
from serving.statistics import STALENESS_SECONDS

Kind = Literal["counter", "gauge", "histogram"]

READ_SECONDS = (
    0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.1,
)  # fmt: skip
"""Buckets from 0.1 ms to 100 ms."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. name: as Prometheus sees it, a counter's with `_total`. buckets: of a histogram, ascending."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in get_args(Kind)
        assert self.name.endswith("_total") == (self.kind == "counter"), f"{self.name}: a counter ends with _total"
        assert bool(self.buckets) == (self.kind == "histogram"), f"{self.name}: a histogram has buckets"

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Registered; its labels are yet to be given."""
        assert self.kind == "counter"
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """As `counter`."""
        assert self.kind == "gauge"
        return Gauge(self.name, self.meaning, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """As `counter`."""
        assert self.kind == "histogram"
        return Histogram(self.name, self.meaning, self.labels, registry=registry, buckets=self.buckets)


# What a client of the feature store counts (`serving.statistics`).
REQUESTS = Metric(
    name="usermodel_serving_requests_total",
    kind="counter",
    meaning="Answers, by user model, serving mode and where the answer came from.",
    labels=("model", "mode", "source"),
)
DEFAULTS = Metric(
    name="usermodel_serving_defaults_total",
    kind="counter",
    meaning="Answers with the default, by why: cold, withdrawn, expired, reshaped, damaged, late, unavailable.",
    labels=("model", "reason"),
)
STALENESS = Metric(
    name="usermodel_serving_staleness_seconds",
    kind="histogram",
    meaning="How old the newest features behind an answer were; defaults have none.",
    labels=("model",),
    buckets=STALENESS_SECONDS,
)
COMPUTATIONS = Metric(
    name="usermodel_serving_computations_total",
    kind="counter",
    meaning="What became of the computations that requests want: queued, coalesced, skipped, shed, dropped, and so on.",
    labels=("model", "outcome"),
)
FALLBACKS = Metric(
    name="usermodel_serving_fallbacks_total",
    kind="counter",
    meaning="Real-time requests that were answered without their own computation.",
    labels=("model",),
)
STORE_ERRORS = Metric(
    name="usermodel_serving_store_errors_total",
    kind="counter",
    meaning="What went wrong between the client and the feature store, by what.",
    labels=("error",),
)
BREAKER_OPEN = Metric(
    name="usermodel_serving_breaker_open",
    kind="gauge",
    meaning="1 while the feature store is not asked because it failed: answers are defaults.",
)
BUFFERED = Metric(
    name="usermodel_serving_buffered_requests",
    kind="gauge",
    meaning="Requests for computation that the client has not handed to the store yet.",
)
CLIENT = (REQUESTS, DEFAULTS, STALENESS, COMPUTATIONS, FALLBACKS, STORE_ERRORS, BREAKER_OPEN, BUFFERED)

# What the HTTP service counts.
READ = Metric(
    name="usermodel_serving_read_seconds",
    kind="histogram",
    meaning="How long a read took, all user models of a request together.",
    buckets=READ_SECONDS,
)
HTTP_REQUESTS = Metric(
    name="usermodel_http_requests_total",
    kind="counter",
    meaning="HTTP answers, by route and status.",
    labels=("route", "status"),
)
HTTP_SECONDS = Metric(
    name="usermodel_http_request_seconds",
    kind="histogram",
    meaning="How long the service worked on a request.",
    labels=("route",),
    buckets=READ_SECONDS,
)
HTTP_IN_FLIGHT = Metric(
    name="usermodel_http_in_flight",
    kind="gauge",
    meaning="Requests that the service works on now.",
)
HTTP = (READ, HTTP_REQUESTS, HTTP_SECONDS, HTTP_IN_FLIGHT)


def _metrics_of(counted: Counted) -> tuple[Metric, ...]:
    """Of a process that has a page of its own."""
    prefix = counted.prefix
    return (
        *(
            Metric(name=f"{prefix}_{name}_total", kind="counter", meaning=f"{of}.")
            for name, of in counted.counters.items()
        ),
        *(Metric(name=f"{prefix}_{name}", kind="gauge", meaning=f"{of}.") for name, of in counted.gauges.items()),
        Metric(
            name=f"{prefix}_{counted.histogram}",
            kind="histogram",
            meaning=f"{counted.histogram_meaning}.",
            buckets=tuple(counted.bounds),
        ),
    )


COMPUTE = _metrics_of(statistics.COMPUTE)
"""A worker of the compute center's (`serving.compute.statistics`), on a port of its own."""
SOLARIS = (*_metrics_of(WORKER), *_metrics_of(READER))
"""Of pairs: a worker's, on a port of its own, and a reader's (`serving.solaris.statistics`)."""

CERTIFICATE = Metric(
    name="usermodel_tls_certificate_expiry_timestamp_seconds",
    kind="gauge",
    meaning="When the certificate that the service shows ends to count.",
)
"""On every page of a process that shows one."""

ALL = (*CLIENT, *HTTP, *COMPUTE, *SOLARIS, CERTIFICATE)
