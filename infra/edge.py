"""Airflow's EdgeExecutor: what the centre is told about it. The worker itself is `infra.worker`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from infra.settings import Settings

Sections = Mapping[str, Mapping[str, object]]
"""Of an airflow.cfg: options by section."""

EXECUTORS = "LocalExecutor,airflow.providers.edge3.executors.EdgeExecutor"
"""The first runs whatever does not name another."""
API = "/edge_worker/v1"
POLL_SECONDS = 1
HEARTBEAT_SECONDS = 5
"""After five of them without a word a worker counts as lost, and may come back under its name."""
LEEWAY_SECONDS = 60
"""A worker's request is signed for so long, and clocks may differ by as much. Airflow's 10 s are too few for a busy web
server: the request comes to its turn too late, is refused, and the worker ends."""
QUEUED_SECONDS = 6 * 3600
"""A task may wait as long for its queue's only GPU host as another may take on it."""


def sections(settings: Settings) -> Sections:
    """What is added to airflow.cfg, at the centre and at a worker; without it the API for workers answers nobody."""
    return {
        "usermodel": {"edge_queues": json.dumps(settings.edge_queues())},
        "edge": {
            "api_enabled": True,
            "api_url": f"{settings.airflow}{API}/rpcapi",
            "job_poll_interval": POLL_SECONDS,
            "heartbeat_interval": HEARTBEAT_SECONDS,
        },
    }
