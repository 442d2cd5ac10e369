"""Prometheus' own programs on the rules; fetched where they are not installed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.monitoring.write import FOLDER, RULES

Promtool = Callable[..., str]


@pytest.fixture
def promtool(prometheus_programs: Path) -> Promtool:
    """Runs it, and returns what it prints."""

    def run(*arguments: str) -> str:
        command = [str(prometheus_programs / "promtool"), *arguments]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    return run


def test_the_rules_and_the_configuration_are_prometheus_own(promtool: Promtool) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(FOLDER / RULES))
    assert "SUCCESS" in promtool("check", "config", str(FOLDER / "rules" / "prometheus.yaml"))


OPEN = 'usermodel_loop_alerts_open{model="demo",kind="ne",severity="critical"}'
OPENED = {"model": "demo", "kind": "ne", "severity": "critical"}
REJECTED = 'usermodel_loop_newest_decision{model="demo",decision="rejected"}'
READS, FAST = "usermodel_serving_read_seconds_count", 'usermodel_serving_read_seconds_bucket{le="0.01"}'
ASKED = 'usermodel_serving_requests_total{model="demo",mode="async",source="%s"}'
FELL = 'usermodel_serving_fallbacks_total{model="demo"}'
ENDS = 'usermodel_tls_certificate_expiry_timestamp_seconds{instance="a"}'


WORKER = 'usermodel_loop_edge_worker_lost{worker="gpu-1"}'
WARNING = {"severity": "warning"}


def schedulers(alive: str) -> dict[str, str]:
    """Two are wanted."""
    return {"usermodel_loop_schedulers_alive": alive, "usermodel_loop_schedulers_wanted": "2x30"}


def answers(minutes: int) -> dict[str, str]:
    """A tenth of them defaults, none a fallback."""
    return {FELL: f"0+0x{minutes}", ASKED % "store": f"0+90x{minutes}", ASKED % "default": f"0+10x{minutes}"}


def stale(mode: str) -> dict[str, str]:
    """Every answer is between three and seven days old."""
    age = 'usermodel_serving_staleness_seconds_bucket{model="demo",le="%s"}'
    rising, none = "0+60x80", "0+0x80"
    asked = (ASKED % "store").replace("async", mode)
    return {age % "86400": none, age % "259200": none, age % "604800": rising, age % "+Inf": rising, asked: rising}


def series(**values: str) -> list[dict[str, str]]:
    return [{"series": name, "values": of} for name, of in values.items()]


@pytest.mark.parametrize(
    ("alert", "at", "values", "fires"),
    [
        pytest.param("UserModelNe", "5m", {OPEN: "0 0 1 1 1 1"}, [OPENED],
                     id="an-alert-of-the-book-is-open"),
        pytest.param("UserModelNe", "5m", {OPEN: "1 1 0 0 0 0"}, [], id="it-was-decided"),
        pytest.param("UserModelOtherAlert", "1m", {OPEN: "1 1 1"}, [], id="a-known-kind-is-no-other"),
        pytest.param("UserModelOtherAlert", "1m", {OPEN.replace("ne", "made-up"): "1 1 1"},
                     [{"model": "demo", "kind": "made-up", "severity": "critical"}], id="a-kind-of-a-recipe"),
        pytest.param("UserModelSloBurn1h", "70m", {READS: "0+600x80", FAST: "0+480x80"},
                     [{"slo": "latency", "severity": "critical"}], id="a-fifth-of-the-reads-is-slow"),
        pytest.param("UserModelSloBurn1h", "70m", {READS: "0+600x80", FAST: "0+597x80"}, [], id="few-reads-are-slow"),
        pytest.param("UserModelSloBurn1h", "70m", {READS: "0+600x60 36600+600x20", FAST: "0+480x60 29400+600x20"}, [],
                     id="the-reads-were-slow-and-are-fast-again"),
        pytest.param("UserModelTargetDown", "5m", {'up{job="usermodel-loop",instance="a"}': "1 0 0 0 0 0 0"},
                     [{"job": "usermodel-loop", "instance": "a", "severity": "critical"}], id="a-service-is-down"),
        pytest.param("UserModelTargetDown", "5m", {'up{job="other",instance="a"}': "0 0 0 0 0 0"}, [], id="not-ours"),
        pytest.param("UserModelRedisDown", "3m", {'usermodel_serving_breaker_open{instance="a"}': "0 1 1 1 1"},
                     [{"instance": "a", "severity": "critical"}], id="the-breaker-is-open"),
        pytest.param("UserModelComputeBehind", "9m",
                     {'usermodel_compute_queue_oldest_seconds{source="shop"}': "0+30x12"},
                     [{"source": "shop", "severity": "warning"}], id="the-queue-grows-old"),
        pytest.param("UserModelServingStale", "65m", stale("async"), [{"model": "demo", "severity": "warning"}],
                     id="answers-are-days-old"),
        pytest.param("UserModelServingStale", "65m", stale("frozen"), [], id="a-frozen-model-is-meant-to-be"),
        pytest.param("UserModelFallbackRate", "45m", answers(60),
                     [{"model": "demo", "severity": "warning"}], id="defaults-on-the-first-day"),
        pytest.param("UserModelFallbackRate", "600m", answers(700), [],
                     id="defaults-as-usual"),
        pytest.param("UserModelCertificateEnds", "70m", {ENDS: "600000+0x80"},
                     [{"instance": "a", "severity": "warning"}],
                     id="a-certificate-ends-within-a-week"),
        pytest.param("UserModelCertificateEnds", "70m", {ENDS: "6000000+0x80"}, [], id="a-certificate-for-months"),
        pytest.param("UserModelLoopUnread", "20m", {'usermodel_loop_up{source="collection"}': "0+0x30"},
                     [{"source": "collection", "severity": "warning"}], id="nothing-was-ever-collected"),
        pytest.param("UserModelSchedulerLost", "10m", schedulers("2 1x20"), [WARNING], id="one-of-two-is-lost"),
        pytest.param("UserModelSchedulerLost", "4m", schedulers("2 1x20"), [], id="it-may-come-back"),
        pytest.param("UserModelSchedulerLost", "10m", schedulers("2x20"), [], id="both-are-alive"),
        pytest.param("UserModelSchedulerLost", "10m", schedulers("0x20"), [], id="none-is-another-alarm"),
        pytest.param("UserModelNoScheduler", "10m", schedulers("0x20"), [{"severity": "critical"}], id="none-is-left"),
        pytest.param("UserModelNoScheduler", "10m", schedulers("2 1x20"), [], id="one-is-left"),
        pytest.param("UserModelEdgeWorkerLost", "10m", {WORKER: "0 1x20"}, [{"worker": "gpu-1", **WARNING}],
                     id="a-worker-is-lost"),
        pytest.param("UserModelEdgeWorkerLost", "10m", {WORKER: "0 1x4 0x20"}, [], id="the-worker-is-back"),
        pytest.param("UserModelRejected", "1m", {REJECTED: "1 1"},
                     [{"model": "demo", "decision": "rejected", "severity": "warning"}], id="a-rejected-day"),
    ],
)  # fmt: skip
def test_a_rule_fires_when_it_should(
    tmp_path: Path, promtool: Promtool, alert: str, at: str, values: dict[str, str], fires: list[dict[str, str]]
) -> None:
    rule = next(
        rule for group in yaml.safe_load((FOLDER / RULES).read_text())["groups"] for rule in group["rules"]
        if rule.get("alert") == alert
    )  # fmt: skip
    expected: list[dict[str, Any]] = [{"exp_labels": labels | {"origin": rule["labels"]["origin"]}} for labels in fires]
    # promtool compares annotations too, whose templates are filled: they are left out of the copy that it is given; so
    # are the rules that this one does not ask for, which it would evaluate at every minute
    copy = yaml.safe_load((FOLDER / RULES).read_text())
    for group in copy["groups"]:
        group["rules"] = [
            {name: value for name, value in one.items() if name != "annotations"}
            for one in group["rules"]
            if one.get("alert") == alert or ("record" in one and one["record"] in rule["expr"])
        ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(copy))
    test = {
        "interval": "1m",
        "input_series": series(**values),
        "alert_rule_test": [{"alertname": alert, "eval_time": at, "exp_alerts": expected}],
    }
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]})
    )
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yaml"))
