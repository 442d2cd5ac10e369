"""`usermodel infra …`: services, and the loop over some days."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import RecipeName
from infra.settings import Settings, get_settings

group = typer.Typer(help="Services, and the daily loop over some days.", no_args_is_help=True)

DEMO_DAYS = 5


@group.command()
def up(
    recipe: RecipeName = "demo",
    days: Annotated[
        str | None, typer.Option(help="FIRST..LAST or one day; default: the recipe's first five days.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the real logs; kept in settings.env as USERMODEL_DATA_DIR.")
    ] = None,
    services_only: Annotated[bool, typer.Option("--services-only", help="Start the services, run no day.")] = False,
    serve: Annotated[
        bool | None,
        typer.Option("--serve/--no-serve", help="Serve the recipe's champion online, from now on; or no longer."),
    ] = None,
) -> None:
    """Start the services, run the daily loop over some days, and serve what it promoted if that is wanted."""
    from features.days import parse_days
    from infra import services
    from infra.airflow import Airflow
    from infra.commands.champions import request_and_answer, serve_champions
    from infra.commands.loop import run_days, unpause
    from infra.commands.summary import print_summary
    from infra.credentials import keep_secrets
    from infra.orchestrator import airflow_token
    from trainer.recipes import get_recipe

    started = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"[{time.monotonic() - started:5.0f} s] {text}")

    config = get_recipe(recipe)
    wanted = parse_days(days) if days is not None else config.schedule.first_days(DEMO_DAYS)
    config.schedule.check(wanted)
    served = get_settings().served
    settings = _remember(recipe, data=data, serve=serve)
    keep_secrets(settings)
    if not services.start(settings, progress=say):
        say("the services are up already")
    with Airflow(settings, token=airflow_token(settings)) as airflow:
        if settings.served:
            unpause(airflow, [f"serve_{model}" for model in settings.served], say=say)
        if not services_only:
            run_days(airflow, config, wanted, say=say)
    if not services_only:
        print_summary(config, wanted, settings=settings)
    if settings.served != served:
        services.unserve(settings, progress=say)
    serving = serve_champions(settings, say=say)
    typer.echo(services.how_to_log_in(settings))
    if serving:
        typer.echo(request_and_answer(settings, recipe if recipe in serving else serving[0]))


def _remember(recipe: str, *, data: Path | None, serve: bool | None) -> Settings:
    """The settings with what was asked for, kept for the services and for later commands."""
    settings = get_settings()
    served = dict.fromkeys(settings.served)
    if serve is not None:
        served.pop(recipe, None)
    if serve:
        served[recipe] = None
    return settings.remember(data_dir=data, served=None if serve is None else tuple(served))


@group.command()
def down() -> None:
    """Stop every service; state stays under .local."""
    from infra import services

    services.stop(get_settings(), progress=typer.echo)


@group.command()
def status() -> None:
    """What runs, where, and how healthy it is."""
    from infra import services

    for service in services.status(get_settings()):
        typer.echo(service.line())
    typer.echo(services.where_alerts_go(get_settings()))


@group.command()
def env() -> None:
    """Print the environment for Airflow's own command line: `source <(usermodel infra env)`."""
    from infra.orchestrator import environment
    from infra.settings import child_environment

    inherited = child_environment()
    for name, value in environment(get_settings()).items():
        if inherited.get(name) != value:
            typer.echo(f"export {name}={shlex.quote(value)}")
