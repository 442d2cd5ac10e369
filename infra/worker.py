"""An edge worker: a host that takes tasks of some queues from an Airflow elsewhere, over HTTP, and no other port.

Its home is its own: configuration, logs and processes. What it trains and embeds lies in the shared folder.
"""

from __future__ import annotations

import shlex
import socket
import ssl
from pathlib import Path

from infra import edge
from infra.orchestrator import home_folder, write_sections
from infra.processes import is_alive
from infra.settings import Settings
from infra.supervision import BIN, Program

NAME = "airflow-edge-worker"
START_SECONDS, START_RETRIES = 10, 6
"""Airflow refuses a worker's name until it misses the one before that was killed."""
DRAIN_SECONDS = 30
"""What it tells its tasks to end, and waits, before it is killed."""


def name(settings: Settings) -> str:
    """Under which Airflow knows it."""
    return settings.worker_name or socket.gethostname()


def program(settings: Settings) -> Program:
    """The worker's process."""
    options = [
        *("--queues", ",".join(settings.worker_queues.split())),
        *("--concurrency", str(settings.worker_tasks)),
        *("--edge-hostname", name(settings)),
        *("--pid", str(_pid_file(settings))),
    ]
    command = [str(BIN / "python"), "-m", "infra.warm", "edge", "worker", *options]
    return Program(
        name=NAME,
        command=command,
        stop_seconds=DRAIN_SECONDS,
        start_seconds=START_SECONDS,
        start_retries=START_RETRIES,
        environment=_trust(settings),
    )


def _trust(settings: Settings) -> dict[str, str]:
    """Whom OpenSSL trusts, for the worker asks Airflow with a client that knows of no other setting: our authority, and
    whom the machine trusts."""
    if settings.tls_ca is None:
        return {}
    machine = ssl.get_default_verify_paths().openssl_capath
    return {"SSL_CERT_FILE": str(settings.tls_ca.resolve()), "SSL_CERT_DIR": machine}


def write_configuration(settings: Settings) -> None:
    """Write airflow.cfg. The secret stays in its file, which may be a mounted one: the configuration names it."""
    secret = settings.jwt_secret.resolve()
    if not secret.is_file():
        raise ValueError(
            f"{secret} is missing: copy credentials/jwt_secret of the Airflow at {settings.airflow}, mode 0600, "
            "or set USERMODEL_JWT_SECRET_FILE to where it is mounted"
        )
    write_sections(
        settings,
        {
            "core": {
                "dags_folder": settings.dags_dir.resolve(),
                "load_examples": False,
                "executor": edge.EXECUTORS,
                "execution_api_server_url": f"{settings.airflow}/execution/",
            },
            "api_auth": {
                "jwt_secret_cmd": shlex.join(["cat", str(secret)]),
                "jwt_leeway": edge.LEEWAY_SECONDS,
            },
            **({} if settings.tls_ca is None else {"api": {"ssl_ca_file": settings.tls_ca.resolve()}}),
            "logging": {"base_log_folder": settings.logs.resolve() / "tasks"},
            "usage_data_collection": {"enabled": False},
            **edge.sections(settings),
        },
    )


def check(settings: Settings, started: float) -> str | None:
    """It has registered since it started: only then it writes its pid."""
    try:
        path = _pid_file(settings)
        written, pid = path.stat().st_mtime, int(path.read_text())
    except (OSError, ValueError):
        return f"not registered with {settings.airflow} yet"
    return None if written >= started and is_alive(pid) else f"not registered with {settings.airflow} again yet"


def _pid_file(settings: Settings) -> Path:
    return home_folder(settings) / "edge-worker.pid"
