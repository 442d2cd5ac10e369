"""`usermodel infra metrics | monitoring`: the loop's metrics, and what Prometheus and Grafana are given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.settings import LOOPBACK, get_settings


def metrics(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond loopback it demands TLS and a token.")
    ] = LOOPBACK,
    port: Annotated[
        int | None, typer.Option(help="Port; 0: any free one.", show_default="USERMODEL_METRICS_PORT")
    ] = None,
    every_seconds: Annotated[float, typer.Option(help="Not collected more often than this.")] = 120.0,
    once: Annotated[bool, typer.Option("--once", help="Collect, print and end.")] = False,
) -> None:
    """Serve the daily loop's metrics to Prometheus until SIGTERM; --once prints them."""
    settings = get_settings()
    if once:
        from datetime import UTC, datetime

        from infra.loop_metrics.collect import collect
        from trainer.recipes import USER_MODELS

        recipes = [make() for make in USER_MODELS.values()]
        sys.stdout.buffer.write(collect(recipes, settings=settings, now=datetime.now(UTC)))
        return
    from infra.loop_metrics.page import serve

    serve(settings, host=host, port=settings.metrics_port if port is None else port, every_seconds=every_seconds)


def monitoring(
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="infra of this checkout")] = None,
    runbooks: Annotated[
        str, typer.Option(help="Where alerts say the runbooks are; for example the URL of this repository's pages.")
    ] = "infra/runbooks",
) -> None:
    """Write Prometheus' rules and Grafana's dashboards anew; what is there already is made by this."""
    from infra.monitoring.write import write

    for path in write(out, runbooks=runbooks):
        typer.echo(path)
