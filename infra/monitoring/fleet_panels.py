"""Is the fleet large enough, and does it keep its promises? What to add processes or hosts by."""

from __future__ import annotations

from infra.monitoring.objectives import OBJECTIVES, PREFIX
from infra.monitoring.panels import RED_AT_ONE, Dashboard, Panel

FLEET = Dashboard(
    name="fleet",
    title="usermodel fleet",
    says="Promises and what is left of their budgets, load per process, headroom, certificates.",
    since="now-7d",
    refresh="30s",
    rows={
        "Promises": (
            Panel(
                title="Share of bad events", unit="percentunit", width=12,
                says="; ".join(f"{one.name}: {one.promise}" for one in OBJECTIVES),
                queries=((f"{PREFIX}_bad:ratio_rate1h", "{{slo}}"),),
            ),
            Panel(
                title="Burn rate", unit="short", width=12,
                says="1: the budget lasts its thirty days; 14.4: two days.",
                queries=((f"{PREFIX}_bad:ratio_rate1h / on (slo) {PREFIX}_budget:ratio", "{{slo}}"),),
            ),
        ),
        "Load": (
            Panel(
                title="Requests per process", unit="reqps",
                says="Of the HTTP service; each process has one core.",
                queries=(
                    ('sum by (instance) (rate(usermodel_http_requests_total{route=~"/v1/.*"}[R]))', "{{instance}}"),
                ),
            ),
            Panel(
                title="Work per request", unit="s",
                says="Of the HTTP service, on average: its inverse is what a process can do.",
                queries=(
                    ("sum by (instance) (rate(usermodel_http_request_seconds_sum[R])) "
                     "/ sum by (instance) (rate(usermodel_http_request_seconds_count[R]))", "{{instance}}"),
                ),
            ),
            Panel(
                title="In flight", unit="short",
                says="Above 256 requests are refused.",
                queries=(("max by (instance) (usermodel_http_in_flight)", "{{instance}}"),),
            ),
            Panel(
                title="Compute workers' time", unit="percentunit", most=1,
                says="Share of its time that a worker computes; near 1 all over: more workers.",
                queries=(("sum by (instance) (rate(usermodel_compute_busy_seconds_total[R]))", "{{instance}}"),),
            ),
            Panel(
                title="Users per second of computing", unit="ops",
                says="What one worker could do if it never waited.",
                queries=(
                    ("sum by (instance) (rate(usermodel_compute_computed_total[R])) "
                     "/ sum by (instance) (rate(usermodel_compute_busy_seconds_total[R]))", "{{instance}}"),
                ),
            ),
            Panel(
                title="Computations that nobody does", unit="ops", stacked=True,
                says="Shed by a full stream, dropped by a full client, limited: capacity that lacks.",
                queries=(
                    ("sum by (outcome) "
                     '(rate(usermodel_serving_computations_total{outcome=~"shed|dropped|rate_limited"}[R]))',
                     "{{outcome}}"),
                ),
            ),
        ),
        "Processes": (
            Panel(
                title="Processes", kind="stat", width=12, unit="short", names={0: "down", 1: "up"},
                steps=(("red", None), ("green", 1)),
                says="What Prometheus reads.",
                queries=(('up{job=~"usermodel.*"}', "{{job}} {{instance}}"),),
            ),
            Panel(
                title="Certificates", kind="stat", width=6, unit="s",
                says="How long they still count.",
                queries=(
                    ("min by (instance) (usermodel_tls_certificate_expiry_timestamp_seconds) - time()", "{{instance}}"),
                ),
            ),
            Panel(
                title="Firing", kind="stat", width=6, unit="short", steps=RED_AT_ONE,
                says="Alerts of the rules in infra/rules, by name.",
                queries=(
                    ('count by (alertname) (ALERTS{alertname=~"UserModel.*", alertstate="firing"})', "{{alertname}}"),
                ),
            ),
        ),
    },
)  # fmt: skip
