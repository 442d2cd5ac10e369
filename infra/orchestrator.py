"""Airflow as four processes or more: its configuration, its database, its command line and its token."""

from __future__ import annotations

import configparser
import io
import math
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx

from infra import edge
from infra.credentials import STORAGE_KEYS, Credentials, airflow_password, ensure_credentials, write_private
from infra.edge import Sections
from infra.postgres import url
from infra.settings import LOOPBACK, REPOSITORY, Settings, child_environment
from infra.supervision import BIN, Program
from serving.secured.ask import trusted

TIMEOUT_SECONDS = 10.0
LOST_SECONDS = 60
"""A task whose process was not heard of for so long has failed: its host died, or was cut off."""
IDLE_SECONDS = 0.25
"""A scheduler that found nothing to do looks again after so long."""
ORPHANS_SECONDS = 30
"""So often a scheduler looks for what one that died left behind; it counts as dead 30 s after its last heartbeat."""
WITH_TABLES = ("apache-airflow-core", "apache-airflow-providers-edge3")
SCHEDULER = "airflow-scheduler"
FOREIGN = ("AIRFLOW_", "MLFLOW_", "USERMODEL_", "SUPERVISOR_", "PG")


def programs(settings: Settings) -> list[Program]:
    """The processes. `airflow standalone` is no choice: its log servers listen on every interface."""
    airflow = str(BIN / "airflow")
    address = ["--host", LOOPBACK, "--port", str(settings.airflow_port)]
    warm = [str(BIN / "python"), "-m", "infra.warm", "scheduler", "--skip-serve-logs"]
    return [
        Program(name="airflow-api-server", command=[airflow, "api-server", *address]),
        *(
            Program(name=name, command=warm, environment={"USERMODEL_SERVICE": name})
            for name in scheduler_names(settings)
        ),
        Program(name="airflow-dag-processor", command=[airflow, "dag-processor"]),
        Program(name="airflow-triggerer", command=[airflow, "triggerer", "--skip-serve-logs"]),
    ]


def scheduler_names(settings: Settings) -> list[str]:
    """One each; the first keeps its name, so that others come and go beside it."""
    return [SCHEDULER, *(f"{SCHEDULER}-{number}" for number in range(2, settings.schedulers + 1))]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the services and of the tasks under them.

    Settings other than the home folder are left to `settings.env`, so that a task and a command line agree;
    variables of another Airflow, MLflow or PostgreSQL are dropped, and keys that lie under home. No secret is in it.
    """
    kept = STORAGE_KEYS if settings.storage_keys_file.exists() else ()
    inherited = {k: v for k, v in child_environment().items() if not k.startswith((*FOREIGN, *kept))}
    return {
        **inherited,
        "USERMODEL_HOME": str(settings.home.resolve()),
        "AIRFLOW_HOME": str(home_folder(settings)),
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
    write_sections(settings, _configuration(settings, credentials))


def is_configured(settings: Settings, credentials: Credentials) -> bool:
    """Whether airflow.cfg is what these settings would write."""
    path = home_folder(settings) / "airflow.cfg"
    return path.exists() and path.read_text() == _rendered(_configuration(settings, credentials))


def write_sections(settings: Settings, sections: Sections) -> None:
    """Write an airflow.cfg, mode 0600."""
    folder = home_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / "airflow.cfg", _rendered(sections))


def ensure_schema(settings: Settings) -> bool:
    """Create or migrate Airflow's and its edge workers' tables, once per version; True if there was work to do."""
    stamp, wanted = home_folder(settings) / "schema-version", "\n".join(map(_version, WITH_TABLES))
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    migrated = run_airflow_cli(settings, "db", "migrate")
    if migrated.returncode:
        raise RuntimeError(f"airflow db migrate failed: {migrated.stderr[-3000:] or migrated.stdout[-3000:]}")
    write_private(stamp, wanted)
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
    password = airflow_password(settings) or ensure_credentials(settings).airflow_password
    answer = httpx.post(
        f"{settings.airflow}/auth/token",
        json={"username": settings.airflow_user, "password": password},
        timeout=TIMEOUT_SECONDS,
        trust_env=False,
        verify=trusted(settings),
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def home_folder(settings: Settings) -> Path:
    """AIRFLOW_HOME."""
    return settings.home.resolve() / "airflow"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} none"


def _rendered(sections: Sections) -> str:
    parser = configparser.ConfigParser()
    for section, options in sections.items():
        parser[section] = {name: str(value).replace("%", "%%") for name, value in options.items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _configuration(settings: Settings, credentials: Credentials) -> Sections:
    """What differs from Airflow's defaults: loopback, our keys, short waits, small logs, nothing sent out."""
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": settings.dags_dir.resolve(),
            "load_examples": False,
            "executor": edge.EXECUTORS if settings.edge_queues() else "LocalExecutor",
            "parallelism": math.ceil(settings.parallel_tasks / settings.schedulers),
            "hostname_callable": "infra.settings.service_host",
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
        "api_auth": {"jwt_secret": credentials.jwt_secret, "jwt_leeway": edge.LEEWAY_SECONDS},
        "dag_processor": {"refresh_interval": 10, "min_file_process_interval": 10, "parsing_processes": 1},
        "scheduler": {
            "scheduler_idle_sleep_time": IDLE_SECONDS,
            "task_instance_heartbeat_timeout": LOST_SECONDS,
            "orphaned_tasks_check_interval": ORPHANS_SECONDS,
            "task_queued_timeout": edge.QUEUED_SECONDS if settings.edge_queues() else 600,
            "enable_health_check": False,
        },
        "logging": {
            "base_log_folder": settings.logs.resolve() / "tasks",
            "namespace_levels": "uvicorn.access=WARNING",
        },
        "usage_data_collection": {"enabled": False},
    }
    return {**sections, **(edge.sections(settings) if settings.edge_queues() else {})}
