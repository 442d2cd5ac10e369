"""What processes read of their environment, and set in that of others."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.settings import Settings


def mlflow_headers(settings: Settings) -> dict[str, str]:
    """What MLflow is shown; to its own client, which reads its environment alone, too, from now on.

    The token is read each time: it may have been exchanged.
    """
    if settings.tls_ca is not None:
        os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(settings.tls_ca)  # noqa: TID251
    if settings.mlflow_token_file is None:
        return {}
    token = settings.mlflow_token_file.read_text(encoding="utf-8").strip()
    os.environ["MLFLOW_TRACKING_TOKEN"] = token  # noqa: TID251
    return {"Authorization": f"Bearer {token}"}


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process we start: this one's, with `extra` on top."""
    return {**os.environ, **extra}  # noqa: TID251


def export(**variables: str) -> None:
    """Set variables that libraries of this process, and processes it starts, read from their environment."""
    os.environ.update(variables)  # noqa: TID251


def aws_environment() -> dict[str, str]:
    """The variables of AWS's own tools, some of them secrets."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value}  # noqa: TID251


def service_host() -> str:
    """What Airflow takes for this host's name: with the service, so that of two schedulers each has its own."""
    service = os.environ.get("USERMODEL_SERVICE")  # noqa: TID251
    host = socket.gethostname()
    return f"{service}@{host}" if service else host


def slurm_node() -> int | None:
    """Which node of its job this process is on, as Slurm tells it; None outside a job."""
    node = os.environ.get("SLURM_NODEID")  # noqa: TID251
    return None if node is None else int(node)


def torchrun_rank() -> tuple[int, int, int]:
    """(rank, world size, local world size), as torchrun tells them to this process."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])  # noqa: TID251
