"""One day, end to end, through the DAG itself: real Delta tables, a real MLflow server, torchrun at two ranks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.lake import Lake
from infra.settings import LOOPBACK, Settings, child_environment, get_settings
from snapshots.registry import Registry
from snapshots.shift.rows import read_rows
from trainer.trained import find_trained

DS = date(2026, 1, 1)
MANUAL_RUN_OF_DS = datetime(2026, 1, 2, tzinfo=UTC)
"""A manual run's data interval is the day before its logical date."""
START_SECONDS = 60.0


@pytest.fixture
def mlflow_uri(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    uri = f"http://{LOOPBACK}:{port}"
    options = ["--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "mlflow"),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options, *store],
        env=child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{uri}/health").is_success:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline, f"MLflow did not start within {START_SECONDS:.0f} s"
                time.sleep(0.2)
        yield uri
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def settings(tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERMODEL_MLFLOW_URI", mlflow_uri)
    monkeypatch.setenv("USERMODEL_RANKS", "2")
    get_settings.cache_clear()
    return get_settings()


def run_the_day(airflow_home: Path) -> dict[str, str]:
    """The states of the day's tasks after one run of the DAG."""
    from dags.user_models import user_model
    from trainer.recipes import get_recipe

    dag: Any = user_model(get_recipe("demo"))
    run = dag.test(logical_date=MANUAL_RUN_OF_DS)
    return {task.task_id: task.state for task in run.get_task_instances()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_one_real_day_twice(settings: Settings, airflow_home: Path) -> None:
    states = run_the_day(airflow_home)
    done = (
        "build_examples",
        "train",
        "publish",
        "plan_inference",
        "infer_shard",
        "commit_inference",
        "check_shift",
        "gate",
        "promote",
    )
    assert {task: str(states[task]) for task in done} == dict.fromkeys(done, "success")
    assert {str(states[task]) for task in ("hold", "reject", "request_review")} == {"skipped"}

    lake, registry = Lake(settings.lake), Registry(settings)
    trained = find_trained(settings, "demo", DS)
    assert trained is not None
    assert (trained.ranks, trained.num_examples) == (2, 60_000)
    champion = registry.alias("demo", "champion")
    assert champion is not None
    assert (champion.number, champion.ds, champion.decision) == (1, DS, "promoted")
    assert champion.embeddings is not None
    users = lake.dataset(lake.get("user_features/demo", DS)).count_rows()
    assert lake.dataset(champion.embeddings).count_rows() == users > 0
    compared = [row for row in read_rows(lake, lake.get("shift/demo", DS)) if row.kind != "inputs"]
    assert compared
    assert all(row.metric == "predecessor" for row in compared)
    tables = {name: lake.get(name, DS) for name in ("examples/demo", "user_embeddings/demo", "shift/demo")}

    again = run_the_day(airflow_home)
    assert {task: str(again[task]) for task in done} == dict.fromkeys(done, "success")
    assert {name: lake.get(name, DS) for name in tables} == tables, "the second run wrote nothing"
    assert find_trained(settings, "demo", DS) == trained
    assert registry.aliases("demo")["champion"] == 1
    assert registry.find("demo", DS) == champion
