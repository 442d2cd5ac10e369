"""What a worker counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from serving.compute.statistics import COUNTERS, GAUGES, Exposed, Statistics


def test_every_number_is_exposed_with_its_labels() -> None:
    statistics = Statistics()
    statistics.count("written", 3, model="demo")
    statistics.count("written", 2, model="other")
    statistics.count("refused", model="demo", reason="not_finite")
    statistics.set("queue_length", 7, source="demo")
    statistics.took([0.001, 0.025, 60.0])
    registry = CollectorRegistry()
    registry.register(Exposed(statistics))
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'usermodel_compute_written_total{model="demo"} 3.0',
        'usermodel_compute_written_total{model="other"} 2.0',
        'usermodel_compute_refused_total{model="demo",reason="not_finite"} 1.0',
        'usermodel_compute_queue_length{source="demo"} 7.0',
        'usermodel_compute_latency_seconds_bucket{le="0.03"} 2.0',
        'usermodel_compute_latency_seconds_bucket{le="+Inf"} 3.0',
        "usermodel_compute_latency_seconds_count 3.0",
    ):
        assert line in lines
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert families >= {f"usermodel_compute_{name}_total" for name in COUNTERS}
    assert families >= {f"usermodel_compute_{name}" for name in GAUGES}
    assert (statistics.total("written"), statistics.total("written", model="demo")) == (5, 3)
