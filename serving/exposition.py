"""A client's statistics as Prometheus reads them: collected when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from serving import metrics
from serving.client.answer import Computation, Origin, Reason
from serving.metrics import Metric
from serving.statistics import Event

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

    from serving.client.model import Model


class ClientCollector(Collector):
    """Of one client: `registry.register(ClientCollector(client.statistics, models))`."""

    def __init__(self, snapshot: Callable[[], Mapping[str, Any]], models: Mapping[str, Model]) -> None:
        self._snapshot = snapshot
        self._modes = {name: model.serving.mode for name, model in models.items()}

    def collect(self) -> Iterable[Family]:
        """Every family of `metrics.CLIENT`, at this moment."""
        found = self._snapshot()
        models: Mapping[str, Mapping[str, Any]] = found["models"]
        yield _counter(
            metrics.REQUESTS,
            {
                (model, self._modes[model], origin): count
                for model, of in models.items()
                for origin, count in {**_zeros(Origin), **of["origins"]}.items()
            },
        )
        yield _counter(metrics.DEFAULTS, _by_name(models, "defaults", _zeros(Reason, without="found")))
        yield _counter(metrics.COMPUTATIONS, _by_name(models, "computations", {**_zeros(Computation), "coalesced": 0}))
        yield _counter(metrics.FALLBACKS, {(model,): of["fallbacks"] for model, of in models.items()})
        yield _staleness(models)
        events = {**_zeros(Event), **found["events"]}
        yield _counter(metrics.STORE_ERRORS, {(event,): count for event, count in events.items()})
        yield _gauge(metrics.BREAKER_OPEN, found["breaker_open"])
        yield _gauge(metrics.BUFFERED, found["buffered"])


def _zeros(names: Any, *, without: str = "") -> dict[str, int]:
    """Of each of a Literal's names: a rate is seen from the first count on."""
    return {name: 0 for name in get_args(names) if name != without}


def _by_name(
    models: Mapping[str, Mapping[str, Any]], field: str, zeros: Mapping[str, int]
) -> dict[tuple[str, ...], float]:
    return {(model, name): count for model, of in models.items() for name, count in {**zeros, **of[field]}.items()}


def _counter(metric: Metric, values: Mapping[tuple[str, ...], float]) -> CounterMetricFamily:
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.meaning, value=float(value))


def _staleness(models: Mapping[str, Mapping[str, Any]]) -> HistogramMetricFamily:
    metric = metrics.STALENESS
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for model, of in models.items():
        buckets, seen = [], 0
        for bound, count in zip([*map(str, metric.buckets), "+Inf"], of["staleness"], strict=True):
            seen += count
            buckets.append((bound, seen))
        family.add_metric((model,), buckets, sum_value=of["staleness_sum_seconds"])
    return family
