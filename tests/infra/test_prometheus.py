"""A real Prometheus, fetched where none is installed, reads real pages: every rule and panel has something to show."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from infra.loop_metrics import families
from infra.loop_metrics.collect import Facts
from infra.monitoring.write import FOLDER, RULES
from infra.settings import LOOPBACK
from serving.compute.service import expose
from serving.compute.statistics import COMPUTE, Counted, Statistics
from serving.secured.page import Page
from serving.solaris.statistics import READER, WORKER
from tests.infra.test_monitoring import ALL_RULES, PANELS
from tests.serving.http.service import announce, running
from tests.serving.secured.made import demanding, home
from tests.serving.servers import free_port, redis_server

LABELS = {"model": "demo", "source": "shop", "reason": "future", "outcome": "queued", "level": "exact"}
SECONDS = 120.0


def counted(of: Counted) -> Statistics:
    """Something of everything, with whatever labels there may be."""
    statistics = Statistics(of)
    for name in of.counters:
        statistics.count(name, 3, **LABELS)
    for name in of.gauges:
        statistics.set(name, 1, **LABELS)
    statistics.took([0.01, 0.2])
    return statistics


def loop() -> bytes:
    """The loop's page, with an open alert."""
    facts = Facts()
    wanted = {"kind": "ne", "severity": "warning", "metric": "cosine_mean", "state": "promoted"}
    for metric in families.ALL:
        kinds = [wanted | {"kind": "consecutive_days"}] if metric is families.SHIFT else [wanted]
        if metric is families.SHIFT:
            kinds.append(kinds[0] | {"metric": "norm_change_mean"})
        for labels in kinds:
            facts.set(metric, time.time() - 60, *(labels.get(label, "demo") for label in metric.labels))
    return facts.text()


@contextmanager
def prometheus(program: Path, folder: Path, jobs: list[dict[str, Any]]) -> Iterator[httpx.Client]:
    """Its API, with our rules."""
    rules = yaml.safe_load((FOLDER / RULES).read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [str(program), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={LOOPBACK}:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{LOOPBACK}:{port}/api/v1", trust_env=False, timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


def job(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {"job_name": f"usermodel-{name}", "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}], **more}


@contextmanager
def pages(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Every page of a deployment, the loop's over TLS and for a token; how Prometheus is to read them."""
    demands, _ = demanding(home(folder), prometheus="metrics")
    assert demands.tls is not None
    token = folder / "credentials" / "tokens.d" / "prometheus"
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        service = stack.enter_context(running(redis.url))
        announce(service.store)
        httpx.get(f"{service.url}/v1/users/7/embeddings", trust_env=False, timeout=20)
        jobs = [job("serving", service.port)]
        for name, of in {"compute": COMPUTE, "solaris": WORKER, "pairs": READER}.items():
            page = expose(counted(of), 0)
            stack.callback(page.stop)
            jobs.append(job(name, page.server_port))
        secured = Page(loop, host=LOOPBACK, port=0, demands=demands).start()
        stack.callback(secured.stop)
        shows = {"scheme": "https", "tls_config": {"ca_file": str(demands.tls.ca)}}
        jobs.append(job("loop", secured.server_port, authorization={"credentials_file": str(token)}, **shows))
        yield jobs


def ask(client: httpx.Client, expression: str) -> list[Any]:
    """The result of an expression now."""
    plain = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
    answer = client.get("/query", params={"query": plain}).json()
    assert answer["status"] == "success", f"{plain}: {answer}"
    result: list[Any] = answer["data"]["result"]
    return result


def until(client: httpx.Client, wanted: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if ask(client, wanted):
                return
        except (httpx.TransportError, json.JSONDecodeError):
            pass
        assert time.monotonic() < deadline, f"nothing came of {wanted}"
        time.sleep(0.5)


@pytest.mark.slow
def test_every_rule_and_every_panel_has_something_to_show(tmp_path: Path, prometheus_programs: Path) -> None:
    program = prometheus_programs / "prometheus"
    with pages(tmp_path) as jobs, prometheus(program, tmp_path, jobs) as client:
        until(client, f"count(up == 1) == {len(jobs)}")
        until(client, "min(count_over_time(up[1m])) >= 8")
        until(client, 'ALERTS{alertname="UserModelNe", alertstate="firing"}')
        empty = [
            f"{uid}, {panel['title']}: {target['expr']}"
            for uid, panel in PANELS for target in panel["targets"] if not ask(client, target["expr"])
        ]  # fmt: skip
        assert not empty
        records = [(rule["record"], rule.get("labels", {})) for rule in ALL_RULES if "record" in rule]
        for name, labels in records:
            assert ask(client, f"{name}{{slo='{labels['slo']}'}}" if labels else name), name
        health = client.get("/rules").json()["data"]["groups"]
        broken = [rule for group in health for rule in group["rules"] if rule["health"] != "ok"]
        assert not broken
        assert sum(len(group["rules"]) for group in health) == len(ALL_RULES)
