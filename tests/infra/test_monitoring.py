"""Rules and dashboards: made by the command, of metrics that there are, and of every kind of alert."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml

from infra.loop_metrics import families
from infra.monitoring.rules import documents
from infra.monitoring.write import FOLDER, RULES, files
from infra.settings import REPOSITORY
from serving import metrics
from snapshots.alerts.kinds import KINDS, RUNBOOKS

METRICS = {one.name: one for one in (*metrics.ALL, *families.ALL)}
RULE_FILE = yaml.safe_load((FOLDER / RULES).read_text())
ALL_RULES: list[dict[str, Any]] = [rule for group in RULE_FILE["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
PANELS = [
    (dashboard["uid"], panel)
    for text in (path.read_text() for path in sorted((FOLDER / "dashboards").glob("*.json")))
    for dashboard in [json.loads(text)]
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
OF_PROMETHEUS = {"up", "ALERTS"}
OF_SCRAPES = {"instance", "job", "le"}


def expression(text: str) -> str:
    """Without Grafana's variables."""
    return text.replace("$__rate_interval", "5m").replace("$model", "demo")


def selectors(text: str) -> list[tuple[str, set[str]]]:
    """Of an expression that parses: names of metrics, and the labels they are selected by."""
    found = []

    def see(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression(text)), see)
    return found


EXPRESSIONS = [
    *(pytest.param(rule["expr"], id=rule.get("alert") or f"{rule['record']}-{rule.get('labels', {}).get('slo', '')}")
      for rule in ALL_RULES),
    *(pytest.param(target["expr"], id=f"{uid}-{panel['title']}-{target['refId']}")
      for uid, panel in PANELS for target in panel["targets"]),
]  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_expression_is_of_metrics_that_there_are(text: str) -> None:
    found = selectors(text)
    assert found or text.startswith("vector(")
    for name, labels in found:
        if name in RECORDED | OF_PROMETHEUS:
            continue
        bare = re.sub("_(bucket|sum|count)$", "", name)
        metric = METRICS.get(name) or METRICS[bare]
        assert (metric.kind == "histogram") == (name != metric.name), name
        counted_elsewhere = metric in (*metrics.COMPUTE, *metrics.SOLARIS)  # their labels are given as they are counted
        assert counted_elsewhere or labels <= {*metric.labels, *OF_SCRAPES}, name


@pytest.mark.parametrize("name", [name for name, _ in files("infra/runbooks")])
def test_what_is_there_is_what_the_command_writes(name: str) -> None:
    text = dict(files("infra/runbooks"))[name]
    assert (FOLDER / name).read_text() == text, "run `usermodel infra monitoring`"


def test_every_kind_of_alert_and_every_runbook_has_a_rule_and_the_other_way_round() -> None:
    pages = {path.name for path in RUNBOOKS.glob("*.md")}
    named = {rule["annotations"]["runbook_url"].removeprefix("infra/runbooks/") for rule in ALERTS}
    assert named == pages
    of_book = {rule["annotations"]["runbook_url"] for rule in ALERTS if rule["labels"]["origin"] == "book"}
    assert {f"infra/runbooks/{kind}.md" for kind in KINDS} == of_book - {"infra/runbooks/README.md"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"].get("severity") in {None, "warning", "critical"}
    assert ("severity" in rule["labels"]) or "severity" in rule["expr"], "the series has it"
    assert rule["for"]
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    assert len(rule["annotations"]["description"]) > 40
    assert not re.search(r"\]\(|`|\*\*", rule["annotations"]["description"]), "plain text"
    assert rule["alert"].startswith("UserModel")


def test_names_are_given_once() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    recorded = [(rule["record"], rule.get("labels", {}).get("slo")) for rule in ALL_RULES if "record" in rule]
    assert len(set(recorded)) == len(recorded)


def test_runbooks_may_lie_elsewhere() -> None:
    found = documents("https://docs.example/runbooks")["groups"][-1]["rules"]
    assert all(rule["annotations"]["runbook_url"].startswith("https://docs.example/runbooks/") for rule in found)


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}-{panel['title']}" for uid, panel in PANELS])
def test_a_panel_can_be_read(uid: str, panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["type"] in {"timeseries", "stat", "heatmap", "table"}
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])


@pytest.mark.parametrize("path", sorted((FOLDER / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported_anywhere(path: Any) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"usermodel-{path.stem}"
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(dashboard["panels"]))) - {"__rate_interval"}
    assert used == {one["name"] for one in dashboard["templating"]["list"]}


def test_the_configurations_name_files_and_ports_that_there_are() -> None:
    from infra.network import LISTENERS

    scraped = yaml.safe_load((FOLDER / "rules" / "prometheus.yaml").read_text())
    assert all((FOLDER / "rules" / name).exists() for name in scraped["rule_files"])
    targets = {
        int(target.rpartition(":")[2])
        for job in scraped["scrape_configs"] for of in job["static_configs"] for target in of["targets"]
    }  # fmt: skip
    assert targets == {LISTENERS[name].port for name in ("serving-http", "serving-compute", "loop-metrics")}
    assert all(job["job_name"].startswith("usermodel-") for job in scraped["scrape_configs"])
    for path in (FOLDER / "dashboards" / "provisioning").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    assert FOLDER.parent == REPOSITORY
