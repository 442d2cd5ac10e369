"""Schedulers side by side and edge workers, as configuration; `tests/faults` runs them for real."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra import health, orchestrator, worker
from infra.commands.infra import up
from infra.commands.worker import worker as worker_command
from infra.credentials import ensure_credentials
from infra.service import services
from infra.settings import Settings, service_host


def settings_of(home: Path, **given: Any) -> Settings:
    return Settings(home=home, _env_file=None, **given)


def configuration(settings: Settings) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(orchestrator.home_folder(settings) / "airflow.cfg")
    return parser


@pytest.mark.parametrize(
    ("schedulers", "names", "tasks"),
    [
        pytest.param(1, ["airflow-scheduler"], "4", id="one"),
        pytest.param(2, ["airflow-scheduler", "airflow-scheduler-2"], "2", id="two"),
        pytest.param(3, ["airflow-scheduler", "airflow-scheduler-2", "airflow-scheduler-3"], "2", id="three"),
    ],
)
def test_each_scheduler_is_a_service_of_its_own_and_they_share_the_tasks(
    tmp_path: Path, schedulers: int, names: list[str], tasks: str
) -> None:
    settings = settings_of(tmp_path, schedulers=schedulers)
    found = {service.name: service for service in services(settings) if "scheduler" in service.name}
    assert list(found) == names
    for name, service in found.items():
        section = service.program.section(settings)
        assert f'environment=USERMODEL_SERVICE="{name}"' in section
        assert f"/{name}.log" in section
    orchestrator.write_configuration(settings, ensure_credentials(settings))
    assert configuration(settings)["core"]["parallelism"] == tasks


def test_a_schedulers_host_carries_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = service_host()
    monkeypatch.setenv("USERMODEL_SERVICE", "airflow-scheduler-2")
    assert service_host() == f"airflow-scheduler-2@{plain}"


@pytest.mark.parametrize(
    ("steps", "executor", "enabled"),
    [
        pytest.param("", "LocalExecutor", None, id="none"),
        pytest.param(
            "train=gpu", "LocalExecutor,airflow.providers.edge3.executors.EdgeExecutor", "True", id="train-elsewhere"
        ),
    ],
)
def test_the_api_for_workers_answers_only_where_a_step_is_theirs(
    tmp_path: Path, steps: str, executor: str, enabled: str | None
) -> None:
    settings, credentials = settings_of(tmp_path, edge_steps=steps), ensure_credentials(settings_of(tmp_path))
    orchestrator.write_configuration(settings, credentials)
    found = configuration(settings)
    assert found["core"]["executor"] == executor
    assert found.get("edge", "api_enabled", fallback=None) == enabled
    assert orchestrator.is_configured(settings, credentials)
    assert not orchestrator.is_configured(settings_of(tmp_path, edge_steps="retrain=gpu" * (not steps)), credentials)


@pytest.mark.parametrize(
    "steps", ["publish=gpu", "train", "train=", "train=gpu train=cpu", "train=g,pu"], ids=lambda text: str(text)
)
def test_what_is_no_step_and_queue_is_refused(tmp_path: Path, steps: str) -> None:
    with pytest.raises(ValueError, match=r"USERMODEL_EDGE_STEPS has .*; write STEP=QUEUE"):
        settings_of(tmp_path, edge_steps=steps).edge_queues()


def test_a_worker_runs_alone_and_only_names_its_secret(tmp_path: Path) -> None:
    centre, shared = settings_of(tmp_path / "centre", airflow_port=8070), tmp_path / "centre"
    secret = ensure_credentials(centre).jwt_secret
    host = settings_of(
        tmp_path / "host",
        worker_queues="gpu wide",
        worker_name="gpu-1",
        worker_tasks=2,
        airflow_uri=f"{centre.airflow}/",
        storage_uri=str(shared),
        jwt_secret_file=centre.jwt_secret,
    )
    [service] = services(host)
    command = " ".join(service.program.command)
    assert command.endswith(
        f"edge worker --queues gpu,wide --concurrency 2 --edge-hostname gpu-1 --pid {host.home}/airflow/edge-worker.pid"
    )
    worker.write_configuration(host)
    found = configuration(host)
    assert found["edge"]["api_url"] == "http://127.0.0.1:8070/edge_worker/v1/rpcapi"
    assert found["core"]["execution_api_server_url"] == "http://127.0.0.1:8070/execution/"
    told = subprocess.run(["sh", "-c", found["api_auth"]["jwt_secret_cmd"]], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == secret
    assert secret not in (host.home / "airflow" / "airflow.cfg").read_text()
    assert {host.lake, str(host.checkpoints), str(host.artifacts)} == {
        centre.lake,
        str(centre.checkpoints),
        str(centre.artifacts),
    }
    assert host.logs != centre.logs


def test_a_worker_without_the_secret_is_told_where_to_put_it(tmp_path: Path) -> None:
    host = settings_of(tmp_path, worker_queues="gpu", airflow_uri="https://far:8080")
    with pytest.raises(ValueError, match=r"jwt_secret is missing: copy .* of the Airflow at https://far:8080"):
        worker.write_configuration(host)


def test_a_worker_trusts_an_authority_of_its_own_installation(tmp_path: Path) -> None:
    secret, ca = tmp_path / "secret", tmp_path / "ca.pem"
    secret.write_text("s")
    given = {"worker_queues": "gpu", "airflow_uri": "https://far:8080", "jwt_secret_file": secret}
    plain, trusting = settings_of(tmp_path / "a", **given), settings_of(tmp_path / "b", tls_ca=ca, **given)
    for host in (plain, trusting):
        worker.write_configuration(host)
    assert worker.program(plain).environment == {}
    assert not configuration(plain).has_section("api")
    told = worker.program(trusting).environment
    assert told["SSL_CERT_FILE"] == configuration(trusting)["api"]["ssl_ca_file"] == str(ca)
    assert told["SSL_CERT_DIR"], "what the machine trusts counts too"


def test_a_worker_whose_options_cannot_be_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="gs://bucket is no place for tables"):
        worker_command(["gpu"], airflow="https://far", mlflow="https://far/mlflow", storage="gs://bucket")
    assert not (tmp_path / "settings.env").exists()


def test_a_check_says_which_token_it_cannot_read(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, token_file=tmp_path / "gone")
    assert "gone" in (health.loop_metrics(settings, 0.0) or "")


def test_a_workers_home_is_no_home_of_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    kept = settings_of(tmp_path, worker_queues="gpu", airflow_uri="https://far").remember()
    before = (kept.home / "settings.env").read_text()
    with pytest.raises(ValueError, match=r"worker for https://far .*is gpu\): start it with `usermodel infra worker`"):
        up(serve=True)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.env"], "nothing was made"
    assert (tmp_path / "settings.env").read_text() == before


def test_a_home_of_services_is_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path))
    (tmp_path / "postgres").mkdir()
    with pytest.raises(ValueError, match=r"is a home of services, .* another one in USERMODEL_HOME"):
        worker_command(["gpu"], airflow="https://far", mlflow="https://far/mlflow")
    assert not (tmp_path / "settings.env").exists()
