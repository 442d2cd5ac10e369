"""The online service as processes: the HTTP face that reads the feature store, and the compute center that fills it."""

from __future__ import annotations

from infra.settings import LOOPBACK, Settings
from infra.supervision import BIN, Program
from serving.secured.ask import scheme

HTTP = "serving-http"
COMPUTE = "serving-compute"
NAMES = (HTTP, COMPUTE)
DRAIN_SECONDS = 20
"""The compute center finishes its micro-batch, the HTTP face its requests, before they end."""


def programs(settings: Settings) -> list[Program]:
    """Both processes; none where no user model is served. What they serve and where they read from `settings.env`."""
    if not settings.served:
        return []
    usermodel, metrics = [str(BIN / "usermodel"), "serving"], ["--metrics-port", str(settings.serving_compute_port)]
    return [
        Program(name=HTTP, command=[*usermodel, "http"], stop_seconds=DRAIN_SECONDS),
        Program(name=COMPUTE, command=[*usermodel, "compute", *metrics], stop_seconds=DRAIN_SECONDS),
    ]


def address(settings: Settings, name: str) -> str:
    """Where one of them answers over HTTP."""
    return f"{scheme(settings)}://{LOOPBACK}:{settings.serving_port if name == HTTP else settings.serving_compute_port}"
