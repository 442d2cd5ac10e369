"""Every metric is documented, shown on the dashboard, and there when Prometheus asks."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.loop_metrics import families
from infra.settings import REPOSITORY
from serving import metrics
from tests.serving.http.service import Running

DASHBOARDS = [json.loads(path.read_text()) for path in sorted((REPOSITORY / "infra" / "dashboards").glob("*.json"))]
ALL = (*metrics.ALL, *families.ALL)
DOCUMENT = (REPOSITORY / "infra" / "dashboards" / "README.md").read_text()
_NAME = re.compile(r"usermodel_(?:serving|http|compute|solaris|pairs|loop|tls)_[a-z_]+")


def expressions() -> list[str]:
    panels = [panel for dashboard in DASHBOARDS for panel in dashboard["panels"]]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def names_in(text: str) -> set[str]:
    """Of metrics, a histogram's series as one."""
    histograms = {one.name for one in ALL if one.kind == "histogram"}
    bare = [(name, re.sub("_(bucket|sum|count)$", "", name)) for name in _NAME.findall(text)]
    return {of if of in histograms else name for name, of in bare}


def test_the_dashboards_show_every_metric_and_no_other() -> None:
    assert names_in(" ".join(expressions())) == {one.name for one in ALL}
    assert names_in(json.dumps([one["templating"] for one in DASHBOARDS])) <= {one.name for one in ALL}


@pytest.mark.parametrize("metric", ALL, ids=lambda one: one.name)
def test_every_metric_is_documented(metric: metrics.Metric) -> None:
    labels = ", ".join(metric.labels)
    assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |" in DOCUMENT


def test_no_other_metric_is_documented() -> None:
    assert set(_NAME.findall(DOCUMENT)) == {one.name for one in ALL}


def scraped(http: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        sample.name: {tuple(of.labels.values()): of.value for of in family.samples if of.name == sample.name}
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_scrape_has_what_requests_left(service: Running, http: httpx.Client) -> None:
    before = scraped(http)
    service.write(600, (5, 1_000), model="demo")
    for path in ("/v1/users/600/embeddings?model=demo", "/v1/users/601/embeddings", "/v1/users/x/embeddings", "/nope"):
        http.get(path)
    after = scraped(http)

    def more(name: str, **labels: str) -> float:
        metric = next(one for one in metrics.ALL if name.startswith(one.name))
        key = tuple(sorted(labels))
        found = [
            sum(value for of, value in scrape.get(name, {}).items() if set(labels.values()) <= set(of))
            for scrape in (before, after)
        ]
        assert set(key) <= {*metric.labels, "le"}
        return found[1] - found[0]

    assert more("usermodel_serving_requests_total", model="demo", mode="async", source="store") == 1
    assert more("usermodel_serving_requests_total", model="demo", mode="async", source="default") == 1
    assert more("usermodel_serving_requests_total", model="daily", mode="batch", source="default") == 1
    assert more("usermodel_serving_defaults_total", model="demo", reason="cold") == 1
    assert more("usermodel_serving_staleness_seconds_count", model="demo") == 1
    assert more("usermodel_serving_computations_total", model="daily", outcome="off") == 1
    assert more("usermodel_serving_read_seconds_count") == 2
    route = "/v1/users/{user_id}/embeddings"
    assert more("usermodel_http_requests_total", route=route, status="200") == 2
    assert more("usermodel_http_requests_total", route=route, status="400") == 1
    assert more("usermodel_http_requests_total", route="none", status="404") == 1
    assert more("usermodel_http_request_seconds_count", route=route) == 3
    assert after["usermodel_serving_breaker_open"] == {(): 0.0}
    assert after["usermodel_http_in_flight"] == {(): 1.0}
    assert after["usermodel_serving_requests_total"]["async", "demo", "frozen"] == 0
    assert after["usermodel_serving_defaults_total"]["demo", "reshaped"] == 0
    assert after["usermodel_serving_store_errors_total"]["reads_late",] == 0
    assert after["usermodel_serving_computations_total"]["demo", "coalesced"] == 0


def test_a_scrape_has_every_metric_of_the_service(http: httpx.Client) -> None:
    families = {family.name for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert {name for name in families if not name.endswith("_created")} == {
        one.name.removesuffix("_total") for one in (*metrics.CLIENT, *metrics.HTTP)
    }
