"""What serving promises, as shares of bad events, and rules that see the promise being used up.

A promise of 99.9 % leaves a budget of 0.1 % for thirty days. A burn rate of 14.4 uses it up in two days: it is measured
over a long window, so that a moment is no alarm, and over a short one, so that an alarm ends when its cause does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PREFIX = "usermodel:slo"
RUNBOOK = "serving-slo"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """bad: PromQL of the share of bad events, `WINDOW` for the range. budget: the share that is promised at most."""

    name: str
    bad: str
    budget: float
    promise: str


@dataclass(frozen=True, kw_only=True)
class Burn:
    """An alarm: the budget is used `rate` times as fast as it lasts, over both windows."""

    rate: float
    long: str
    short: str
    severity: str
    hold: str


OBJECTIVES = (
    Objective(
        name="answers",
        bad='(sum(rate(usermodel_http_requests_total{route=~"/v1/.*",status=~"5.."}[WINDOW])) or vector(0)) '
        '/ sum(rate(usermodel_http_requests_total{route=~"/v1/.*"}[WINDOW]))',
        budget=0.001,
        promise="99.9 % of the requests for embeddings are answered, not refused with a 5xx",
    ),
    Objective(
        name="latency",
        bad='1 - sum(rate(usermodel_serving_read_seconds_bucket{le="0.01"}[WINDOW])) '
        "/ sum(rate(usermodel_serving_read_seconds_count[WINDOW]))",
        budget=0.01,
        promise="99 % of the reads are answered within 10 ms",
    ),
    Objective(
        name="store",
        bad='sum(rate(usermodel_serving_defaults_total{reason=~"late|unavailable|damaged"}[WINDOW])) '
        "/ sum(rate(usermodel_serving_requests_total[WINDOW]))",
        budget=0.005,
        promise="99.5 % of the answers are no default for the feature store's sake",
    ),
)
BURNS = (
    Burn(rate=14.4, long="1h", short="5m", severity="critical", hold="2m"),
    Burn(rate=6, long="6h", short="30m", severity="critical", hold="5m"),
    Burn(rate=3, long="1d", short="2h", severity="warning", hold="15m"),
    Burn(rate=1, long="3d", short="6h", severity="warning", hold="30m"),
)
WINDOWS = tuple(dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long)))


def recorded() -> Iterator[dict[str, Any]]:
    """Recording rules: the budget of each promise, its share of bad events by window, and fallbacks."""
    yield fallbacks()
    for one in OBJECTIVES:
        yield {"record": f"{PREFIX}_budget:ratio", "expr": f"vector({one.budget})", "labels": {"slo": one.name}}
    for window in WINDOWS:
        for one in OBJECTIVES:
            name = f"{PREFIX}_bad:ratio_rate{window}"
            yield {"record": name, "expr": one.bad.replace("WINDOW", window), "labels": {"slo": one.name}}


def fallbacks() -> dict[str, Any]:
    """Answers that are defaults, or that a real-time request fell back to, of all answers of a model."""
    bad = "sum by (model) (rate(usermodel_serving_fallbacks_total[30m]))"
    bad += ' + sum by (model) (rate(usermodel_serving_requests_total{source="default"}[30m]))'
    every = "sum by (model) (rate(usermodel_serving_requests_total[30m]))"
    return {"record": "usermodel:fallbacks:ratio_rate30m", "expr": f"({bad}) / {every}"}


def burning(burn: Burn) -> str:
    """PromQL: the promises whose budget is used up too fast."""
    too_fast = (
        f"{PREFIX}_bad:ratio_rate{window} > on (slo) ({burn.rate} * {PREFIX}_budget:ratio)"
        for window in (burn.long, burn.short)
    )
    return " and on (slo) ".join(f"({one})" for one in too_fast)
