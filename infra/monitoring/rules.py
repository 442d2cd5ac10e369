"""Prometheus' rules: one alert per kind of alert and runbook, and the promises of serving.

What the daily loop raises is in the alert book already, told to the on-call through Apprise; its rules (`origin: book`)
are for who routes everything through Alertmanager, and leaves `USERMODEL_ALERT_URLS` empty. What serving does is known
to Prometheus alone (`origin: metrics`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.monitoring.objectives import BURNS, RUNBOOK, burning, recorded
from snapshots.alerts.kinds import KINDS, RUNBOOKS

OPEN = "max by (model, kind, severity) (usermodel_loop_alerts_open{kind=%s}) > 0"
_MEANS = re.compile(r"\*\*Means\.\*\* (.+?)(?:\n\n|\Z)", re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One alert. kind: its runbook. severity: empty where the series has it. hold: how long it must be so."""

    name: str
    kind: str
    expr: str
    hold: str
    summary: str
    severity: str = ""
    origin: str = "metrics"

    def document(self, runbooks: str) -> dict[str, Any]:
        """As Prometheus reads it."""
        labels = {"severity": self.severity} if self.severity else {}
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {**labels, "origin": self.origin},
            "annotations": {
                "summary": self.summary,
                "description": meaning_of(self.kind),
                "runbook_url": f"{runbooks}/{self.kind}.md",
            },
        }


def meaning_of(kind: str) -> str:
    """The first paragraph of its runbook, as plain text. ValueError: the page has none."""
    text = (RUNBOOKS / f"{kind}.md").read_text(encoding="utf-8")
    if kind == "README":
        return "An alert of a kind that a recipe's own rule made up; its reasons are in the alert book."
    if (found := _MEANS.search(text)) is None:
        raise ValueError(f"infra/runbooks/{kind}.md says nowhere what the alert **Means.**")
    return " ".join(_LINK.sub(r"\1", found[1]).replace("`", "").replace("**", "").split())


def documents(runbooks: str) -> dict[str, Any]:
    """The whole file. runbooks: where the pages are."""
    burns = [
        Rule(
            name=f"UserModelSloBurn{burn.long}", kind=RUNBOOK, expr=burning(burn), hold=burn.hold,
            severity=burn.severity,
            summary=f"{{{{ $labels.slo }}}}: its budget burns {burn.rate:g} times too fast ({burn.long}, {burn.short})",
        )
        for burn in BURNS
    ]  # fmt: skip
    return {
        "groups": [
            {"name": "usermodel-slo", "interval": "30s", "rules": list(recorded())},
            {"name": "usermodel-slo-burn", "rules": [one.document(runbooks) for one in burns]},
            {"name": "usermodel-loop", "rules": [one.document(runbooks) for one in loop_rules()]},
            {"name": "usermodel-serving", "rules": [one.document(runbooks) for one in SERVING]},
        ]
    }


def loop_rules() -> Iterator[Rule]:
    """Of the alert book, by kind, and of what no alert is raised for."""
    for kind, says in KINDS.items():
        yield Rule(
            name=_name(kind), kind=kind, expr=OPEN % f'"{kind}"', hold="0m", origin="book",
            summary=f"{{{{ $labels.model }}}}: {says}",
        )  # fmt: skip
    known = "|".join(KINDS)
    other = (OPEN % f'"{known}"').replace("kind=", "kind!~")
    yield Rule(
        name="UserModelOtherAlert", kind="README", expr=other, hold="0m", origin="book",
        summary="{{ $labels.model }}: {{ $labels.kind }}",
    )  # fmt: skip
    yield from _BESIDE


_BESIDE = (
    Rule(
        name="UserModelMlflowUnread", kind="mlflow-down", severity="warning", hold="10m",
        expr='usermodel_loop_up{source="registry"} == 0',
        summary="The loop's metrics cannot read the registry",
    ),
    Rule(
        name="UserModelLoopUnread", kind="target-down", severity="warning", hold="15m",
        expr='usermodel_loop_up{source!="registry"} == 0',
        summary="The loop's metrics lack what {{ $labels.source }} says",
    ),
    Rule(
        name="UserModelBehind", kind="freshness", severity="warning", hold="15m",
        expr="usermodel_loop_days_behind > 0",
        summary="{{ $labels.model }} is {{ $value }} days behind its schedule",
    ),
    Rule(
        name="UserModelRejected", kind="rejected", severity="warning", hold="0m",
        expr='usermodel_loop_newest_decision{decision="rejected"} == 1',
        summary="{{ $labels.model }}: the newest day was rejected",
    ),
    Rule(
        name="UserModelUndelivered", kind="undelivered", severity="warning", hold="2h",
        expr="usermodel_loop_alerts_undelivered > 0",
        summary="{{ $labels.model }}: {{ $value }} alerts reached nobody for two hours",
    ),
    Rule(
        name="UserModelSchedulerLost", kind="airflow-lost", severity="warning", hold="5m",
        expr="0 < usermodel_loop_schedulers_alive < usermodel_loop_schedulers_wanted",
        summary="{{ $value }} of Airflow's schedulers are alive, fewer than there should be",
    ),
    Rule(
        name="UserModelNoScheduler", kind="airflow-lost", severity="critical", hold="5m",
        expr="usermodel_loop_schedulers_alive == 0",
        summary="No scheduler of Airflow is alive: no day goes on",
    ),
    Rule(
        name="UserModelEdgeWorkerLost", kind="airflow-lost", severity="warning", hold="5m",
        expr="usermodel_loop_edge_worker_lost == 1",
        summary="Airflow does not hear of the edge worker {{ $labels.worker }}",
    ),
    Rule(
        name="UserModelLoopMetricsOld", kind="target-down", severity="warning", hold="5m",
        expr="time() - usermodel_loop_collected_timestamp_seconds > 1800",
        summary="The loop's metrics were last collected {{ $value | humanizeDuration }} ago",
    ),
)  # fmt: skip

SERVING = (
    Rule(
        name="UserModelTargetDown", kind="target-down", severity="critical", hold="3m",
        expr='up{job=~"usermodel.*"} == 0',
        summary="{{ $labels.instance }} of {{ $labels.job }} does not answer",
    ),
    Rule(
        name="UserModelRedisDown", kind="redis-down", severity="critical", hold="1m",
        expr="max by (instance) (usermodel_serving_breaker_open or usermodel_pairs_breaker_open) == 1",
        summary="{{ $labels.instance }} has stopped asking the feature store",
    ),
    Rule(
        name="UserModelComputeBehind", kind="compute-behind", severity="warning", hold="5m",
        expr="max by (source) (usermodel_compute_queue_oldest_seconds) > 60",
        summary="Requests of {{ $labels.source }} wait {{ $value | humanizeDuration }} for their computation",
    ),
    Rule(
        name="UserModelComputeIdle", kind="compute-behind", severity="critical", hold="5m",
        expr="max(usermodel_compute_up) == 0",
        summary="No worker of the compute center has a champion to compute with",
    ),
    Rule(
        name="UserModelPairsBehind", kind="pairs-behind", severity="warning", hold="15m",
        expr="max(usermodel_solaris_queue_length) > 0 and sum(rate(usermodel_solaris_done_total[10m])) == 0",
        summary="Pairs wait, and none is computed",
    ),
    Rule(
        name="UserModelServingStale", kind="serving-stale", severity="warning", hold="30m",
        expr="histogram_quantile(0.5, sum by (le, model) "
        "(rate(usermodel_serving_staleness_seconds_bucket[30m]))) > 172800 "
        'unless on (model) usermodel_serving_requests_total{mode="frozen"}',
        summary="{{ $labels.model }}: half of the answers are older than {{ $value | humanizeDuration }}",
    ),
    Rule(
        name="UserModelFallbackRate", kind="fallback-rate", severity="warning", hold="10m",
        expr="usermodel:fallbacks:ratio_rate30m > 0.05 unless "
        "usermodel:fallbacks:ratio_rate30m <= 2 * avg_over_time(usermodel:fallbacks:ratio_rate30m[1d] offset 1h)",
        summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of the answers are fallbacks or defaults",
    ),
    Rule(
        name="UserModelRefusedSnapshot", kind="refused-snapshot", severity="critical", hold="0m",
        expr="sum by (model) (increase(usermodel_compute_champions_refused_total[10m])) > 0",
        summary="{{ $labels.model }}: the compute center refuses the champion",
    ),
    Rule(
        name="UserModelCertificateEnds", kind="certificate", severity="warning", hold="1h",
        expr="min by (instance) (usermodel_tls_certificate_expiry_timestamp_seconds) - time() < 14 * 86400",
        summary="The certificate of {{ $labels.instance }} counts for {{ $value | humanizeDuration }} more",
    ),
)  # fmt: skip


def _name(kind: str) -> str:
    return "UserModel" + "".join(part.capitalize() for part in kind.split("-"))
