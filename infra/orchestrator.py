"""Airflow as four processes: its configuration, its database, its command line and its token."""

from __future__ import annotations

import configparser
import io
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import httpx

from infra.credentials import Credentials, ensure_credentials, write_private
from infra.postgres import url
from infra.settings import LOOPBACK, REPOSITORY, Settings, child_environment
from infra.supervision import BIN, Program

PARALLEL_TASKS = 4
TIMEOUT_SECONDS = 10.0
FOREIGN = ("AIRFLOW_", "MLFLOW_", "USERMODEL_", "SUPERVISOR_", "PG")


def programs(settings: Settings) -> list[Program]:
    """The four processes. `airflow standalone` is no choice: its log servers listen on every interface."""
    airflow = str(BIN / "airflow")
    address = ["--host", LOOPBACK, "--port", str(settings.airflow_port)]
    return [
        Program(name="airflow-api-server", command=[airflow, "api-server", *address]),
        Program(name="airflow-scheduler", command=[str(BIN / "python"), "-m", "infra.scheduler"]),
        Program(name="airflow-dag-processor", command=[airflow, "dag-processor"]),
        Program(name="airflow-triggerer", command=[airflow, "triggerer", "--skip-serve-logs"]),
    ]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the services and of the tasks under them.

    Settings other than the home folder are left to `settings.env`, so that a task and a command line agree;
    variables of another Airflow, MLflow or PostgreSQL are dropped. No secret is in it.
    """
    inherited = {k: v for k, v in child_environment().items() if not k.startswith(FOREIGN)}
    return {
        **inherited,
        "USERMODEL_HOME": str(settings.home.resolve()),
        "AIRFLOW_HOME": str(_folder(settings)),
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{BIN}:{inherited.get('PATH', '/usr/bin:/bin')}",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "SPT_NOENV": "1",  # process titles must not overwrite the environment that marks our processes
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
    }


def write_configuration(settings: Settings, credentials: Credentials) -> None:
    """Write airflow.cfg (mode 0600: it holds the keys)."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    parser = configparser.ConfigParser()
    for section, options in _configuration(settings, credentials).items():
        parser[section] = {name: str(value).replace("%", "%%") for name, value in options.items()}
    text = io.StringIO()
    parser.write(text)
    write_private(folder / "airflow.cfg", text.getvalue())


def ensure_schema(settings: Settings) -> bool:
    """Create or migrate Airflow's tables, once per Airflow version; True if there was work to do."""
    stamp = _folder(settings) / "schema-version"
    if stamp.exists() and stamp.read_text() == version("apache-airflow-core"):
        return False
    migrated = run_airflow_cli(settings, "db", "migrate")
    if migrated.returncode:
        raise RuntimeError(f"airflow db migrate failed: {migrated.stderr[-3000:] or migrated.stdout[-3000:]}")
    write_private(stamp, version("apache-airflow-core"))
    return True


def run_airflow_cli(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Airflow's own command line against this installation; stdout and stderr are captured as text."""
    return subprocess.run(
        [str(BIN / "airflow"), *arguments],
        env=environment(settings),
        cwd=settings.home,
        capture_output=True,
        text=True,
        check=False,
    )


def airflow_token(settings: Settings) -> str:
    """A token for the REST API, as the user that `infra up` created. Raises httpx.HTTPError if refused."""
    login = {"username": settings.airflow_user, "password": ensure_credentials(settings).airflow_password}
    answer = httpx.post(f"{settings.airflow}/auth/token", json=login, timeout=TIMEOUT_SECONDS, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _folder(settings: Settings) -> Path:
    return settings.home.resolve() / "airflow"


def _configuration(settings: Settings, credentials: Credentials) -> Mapping[str, Mapping[str, object]]:
    """What differs from Airflow's defaults: loopback, our keys, short waits, small logs, nothing sent out."""
    return {
        "core": {
            "dags_folder": REPOSITORY / "dags",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": PARALLEL_TASKS,
            "execution_api_server_url": f"{settings.airflow}/execution/",
            "fernet_key": credentials.fernet_key,
            "simple_auth_manager_users": f"{settings.airflow_user}:admin",
            "simple_auth_manager_passwords_file": credentials.airflow_passwords_file.resolve(),
            "min_serialized_dag_update_interval": 5,
        },
        "database": {
            "sql_alchemy_conn": url(settings, "airflow", driver="psycopg2"),
            "sql_alchemy_conn_async": url(settings, "airflow", driver="asyncpg"),
        },
        "api": {
            "workers": 1,
            "base_url": settings.airflow,
            "secret_key": credentials.api_secret_key,
        },
        "api_auth": {"jwt_secret": credentials.jwt_secret},
        "dag_processor": {"refresh_interval": 10, "min_file_process_interval": 10, "parsing_processes": 1},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.25,
            "task_instance_heartbeat_timeout": 60,
            "enable_health_check": False,
        },
        "logging": {
            "base_log_folder": settings.logs.resolve() / "tasks",
            "namespace_levels": "uvicorn.access=WARNING",
        },
        "usage_data_collection": {"enabled": False},
    }
