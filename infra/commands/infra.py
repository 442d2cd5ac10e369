"""`usermodel infra …`: services, and the loop over some days."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.commands import hosts, slurm
from infra.commands.capacity import capacity
from infra.commands.observability import metrics, monitoring
from infra.commands.security import certificates, token
from infra.commands.sizes import sizes
from infra.commands.worker import worker
from infra.settings import Settings, get_settings

if TYPE_CHECKING:
    from infra.commands.loop import Wanted

group = typer.Typer(help="Services, and the daily loop over some days.", no_args_is_help=True)
group.command()(certificates)
group.command()(token)
group.command()(metrics)
group.command()(monitoring)
group.command()(worker)
group.command()(capacity)
group.command()(sizes)
group.add_typer(slurm.group, name="slurm")
group.add_typer(hosts.group, name="hosts")

DEMO_DAYS = 5


@group.command()
def up(
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A user model's recipe; repeated: several side by side.", show_default="demo"),
    ] = None,
    days: Annotated[
        str | None, typer.Option(help="FIRST..LAST or one day; default: each recipe's first five days.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the real logs; kept in settings.env as USERMODEL_DATA_DIR.")
    ] = None,
    services_only: Annotated[bool, typer.Option("--services-only", help="Start the services, run no day.")] = False,
    serve: Annotated[
        bool | None,
        typer.Option("--serve/--no-serve", help="Serve the recipes' champions online, from now on; or no longer."),
    ] = None,
) -> None:
    """Start the services, run the daily loop over some days, and serve what it promoted if that is wanted."""
    from infra import services
    from infra.airflow import Airflow
    from infra.commands.champions import request_and_answer, serve_champions
    from infra.commands.loop import DayFailedError, run_days, unpause
    from infra.commands.summary import print_summary
    from infra.credentials import keep_secrets
    from infra.orchestrator import airflow_token

    started = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"[{time.monotonic() - started:5.0f} s] {text}")

    _require_no_worker(get_settings())
    wanted = _wanted(recipe or ["demo"], days)
    names = [one.recipe.name for one in wanted]
    served = get_settings().served
    settings = _remember(names, data=data, serve=serve)
    keep_secrets(settings)
    if not services.start(settings, progress=say):
        say("the services are up already")
    with Airflow(settings, token=airflow_token(settings)) as airflow:
        if settings.served:
            unpause(airflow, [f"serve_{model}" for model in settings.served], say=say)
        failure = None
        try:
            run_days(airflow, [] if services_only else wanted, say=say)
        except DayFailedError as error:
            failure = error
    if not services_only:
        print_summary(wanted, settings=settings)
    if failure is not None:
        raise failure
    if settings.served != served:
        services.unserve(settings, progress=say)
    serving = serve_champions(settings, say=say)
    typer.echo(services.how_to_log_in(settings))
    if serving:
        typer.echo(request_and_answer(settings, [name for name in names if name in serving] or serving[:1]))


def _require_no_worker(settings: Settings) -> None:
    if settings.worker_queues:
        raise ValueError(
            f"{settings.home} is the home of a worker for {settings.airflow} (USERMODEL_WORKER_QUEUES is "
            f"{settings.worker_queues}): start it with `usermodel infra worker`, or give the services a home of their "
            "own in USERMODEL_HOME"
        )


def _wanted(recipes: Sequence[str], days: str | None) -> list[Wanted]:
    """ValueError for a name that is unknown, has no DAG or stands twice, and for days outside a schedule."""
    from features.days import parse_days
    from infra.commands.loop import Wanted
    from trainer.recipes import get_scheduled

    if twice := sorted({name for name in recipes if recipes.count(name) > 1}):
        raise ValueError(f"--recipe {', '.join(twice)} is given twice; name each user model once")
    found = []
    for config in map(get_scheduled, recipes):
        wanted = config.schedule.first_days(DEMO_DAYS) if days is None else parse_days(days)
        try:
            config.schedule.check(wanted)
        except ValueError as error:
            raise ValueError(f"{config.name}: {error}") from error
        found.append(Wanted(recipe=config, days=tuple(wanted)))
    return found


def _remember(recipes: Sequence[str], *, data: Path | None, serve: bool | None) -> Settings:
    """The settings with what was asked for, kept for the services and for later commands."""
    settings = get_settings()
    served = dict.fromkeys(settings.served)
    if serve is not None:
        served = {name: None for name in served if name not in recipes}
    if serve:
        served |= dict.fromkeys(recipes)
    return settings.remember(data_dir=data, served=None if serve is None else tuple(served))


@group.command()
def down() -> None:
    """Stop every service; state stays under .local."""
    from infra import services

    services.stop(get_settings(), progress=typer.echo)


@group.command()
def status() -> None:
    """What runs, where, and how healthy it is; which user models there are, and which of their days is served."""
    from infra import services
    from infra.airflow import Airflow
    from infra.commands.models import model_lines
    from infra.orchestrator import airflow_token

    settings = get_settings()
    found = services.status(settings)
    for service in found:
        typer.echo(service.line())
    typer.echo(services.where_alerts_go(settings))
    healthy = {service.name for service in found if service.state == "healthy"}
    if settings.edge_queues() and "airflow-api-server" in healthy:
        with Airflow(settings, token=airflow_token(settings)) as airflow:
            for worker in airflow.workers():
                typer.echo(worker.line())
    if "mlflow" in healthy:
        for line in model_lines(settings):
            typer.echo(line)


@group.command()
def env() -> None:
    """Print the environment for Airflow's own command line: `source <(usermodel infra env)`."""
    from infra.orchestrator import environment
    from infra.settings import child_environment

    inherited = child_environment()
    for name, value in environment(get_settings()).items():
        if inherited.get(name) != value:
            typer.echo(f"export {name}={shlex.quote(value)}")
