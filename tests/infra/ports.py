"""Settings of services that disturb nobody."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from infra.processes import port_is_free
from infra.settings import LOOPBACK, Settings

PORTS = ("airflow_port", "mlflow_port", "redis_port", "metrics_port")
ONLINE_PORTS = ("serving_port", "serving_compute_port")


def on_free_ports(home: Path, **given: Any) -> Settings:
    """Settings that know nothing of this machine, on ports that are free now."""
    names = (*PORTS, *ONLINE_PORTS)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in names]
        ports = {name: server.getsockname()[1] for name, server in zip(names, sockets, strict=True)}
    return Settings(home=home, _env_file=None, **ports, **given)


def free_row(number: int) -> int:
    """The first of so many free ports, one after the other: a Slurm controller's and its nodes'."""
    while True:
        with socket.create_server((LOOPBACK, 0)) as server:
            first: int = server.getsockname()[1]
        if first < 65_000 and all(port_is_free(LOOPBACK, first + offset) for offset in range(number)):
            return first
