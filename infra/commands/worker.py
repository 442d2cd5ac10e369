"""`usermodel infra worker`: this host takes tasks from an Airflow elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.settings import Settings, get_settings


def worker(
    queue: Annotated[list[str], typer.Option(help="Take tasks of this queue; repeated: of several.")],
    airflow: Annotated[str | None, typer.Option(help="URL of the Airflow to work for.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="URL of its MLflow.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="What all hosts share: s3://BUCKET/PREFIX, or a folder that lies at one path on all."),
    ] = None,
    secret: Annotated[
        Path | None, typer.Option(help="File of the secret that Airflow and its workers share; default: in the home.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Unlike every other worker's; default: the host's.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks at once.", show_default="1")] = None,
) -> None:
    """Run tasks of a queue on this host, until `usermodel infra down`; what is given is kept in settings.env."""
    from infra import services
    from infra.credentials import keep_secrets

    given = {
        "worker_queues": " ".join(queue),
        "airflow_uri": airflow,
        "mlflow_uri": mlflow,
        "storage_uri": storage,
        "jwt_secret_file": secret and secret.resolve(),
        "worker_name": name,
        "worker_tasks": tasks,
    }
    _require_no_services(get_settings())
    known = get_settings().model_dump(exclude_unset=True)
    settings = Settings.model_validate(known | {key: value for key, value in given.items() if value is not None})
    for setting, option in (("airflow_uri", "airflow"), ("mlflow_uri", "mlflow")):
        if getattr(settings, setting) is None:
            raise ValueError(f"a worker needs --{option} URL, or USERMODEL_{setting.upper()}: this host runs none")
    settings.remember()
    keep_secrets(settings)
    if not services.start(settings, progress=typer.echo):
        typer.echo("the worker is up already")


def _require_no_services(settings: Settings) -> None:
    from infra import postgres

    if postgres.is_initialised(settings):
        raise ValueError(
            f"{settings.home} is a home of services, with Airflow's database; give the worker another one in "
            "USERMODEL_HOME"
        )
