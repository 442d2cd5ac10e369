"""`usermodel serving …`: what serves embeddings online."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from dags import steps
from infra.commands import solaris
from infra.commands.ercache import measure, simulate
from infra.commands.options import MetricsHost, RecipeName, numbers, show
from infra.commands.replay import replay
from infra.settings import LOOPBACK, Settings, get_settings
from trainer.recipes import get_recipe

group = typer.Typer(help="Serving: embeddings, fresh on every request.", no_args_is_help=True)
group.command()(simulate)
group.command()(measure)
group.command()(replay)
group.add_typer(solaris.group, name="solaris")

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A user model; may be given several times.", show_default="USERMODEL_SERVING_MODELS"),
]


@group.command()
def shard(
    recipe: RecipeName,
    index: Annotated[int, typer.Option("--index", help="Which shard this is, from 0.")],
    of: Annotated[int, typer.Option("--of", help="How many there are.")],
    port: Annotated[int, typer.Option("--port", help="0: any that is free; it is printed.", min=0, max=65535)],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond loopback workers show certificates.")
    ] = LOOPBACK,
) -> None:
    """Serve a share of the rows of the model's tables to workers, until told to end."""
    from serving.secured.listen import mutual
    from serving.shards.partition import Share
    from serving.shards.server import serve

    name, settings = get_recipe(recipe).name, get_settings()
    serve(
        settings.artifacts / name, Share(index=index, of=of), host=host, port=port, ready=typer.echo,
        tls=mutual(host, settings),
    )  # fmt: skip


@group.command()
def http(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int | None, typer.Option(help="Port; default: the setting's, 0: any free one.")] = None,
    models: Models = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name this service is called by, besides loopback's; repeated.")
    ] = None,
) -> None:
    """Serve embeddings, health, metrics and users' pages by HTTP until SIGTERM; requests under way are ended."""
    from serving.http.limits import LOOPBACK_HOSTS, Limits
    from serving.http.server import serve
    from serving.secured.listen import secured

    settings = get_settings()
    serve(
        _named(models, settings),
        store_url=settings.feature_store(),
        partitions=settings.redis_partitions,
        host=host,
        port=settings.serving_port if port is None else port,
        limits=Limits(hosts=LOOPBACK_HOSTS | {name.lower() for name in allow_host or ()}),
        demands=secured(host, settings),
    )


@group.command()
def compute(
    models: Models = None,
    partitions: Annotated[
        str | None, typer.Option("--partitions", help="Of the store's, this worker's: 0-3,6.", show_default="all")
    ] = None,
    latency_ms: Annotated[
        float, typer.Option("--latency-ms", help="Aim, from a request to its vectors in the store.")
    ] = 50.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Of Prometheus' page; 0: none.", show_default="USERMODEL_SERVING_COMPUTE_PORT"),
    ] = None,
    metrics_host: MetricsHost = LOOPBACK,
) -> None:
    """Run a worker of the compute center: one per core. SIGTERM: it finishes what it took."""
    from serving.compute.service import serve
    from serving.compute.worker import Options
    from serving.keys import Keys
    from trainer.recipes import get_recipe

    settings = get_settings()
    serve(
        [get_recipe(name) for name in _named(models, settings)],
        settings=settings,
        url=settings.feature_store(),
        keys=Keys(settings.redis_partitions),
        partitions=None if partitions is None else numbers(partitions),
        options=Options(latency_ms=latency_ms),
        metrics_port=settings.serving_compute_port if metrics_port is None else metrics_port,
        metrics_host=metrics_host,
    )


@group.command()
def load(
    recipe: RecipeName,
    ds: Annotated[
        str | None, typer.Option("--ds", help="The newest day, YYYY-MM-DD; default: the newest promoted.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was loaded before: records may have gone.")] = False,
) -> None:
    """Load the promoted days into the feature store; what is there already, or newer, stays."""
    show(steps.load_embeddings(recipe, ds, again=again))


@group.command()
def user(
    user: Annotated[int, typer.Argument(help="The user's id.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="One user model; default: all that are served.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what the feature store holds of a user: versions, times, cosines between the vectors, time left."""
    from infra.commands.user import print_user

    found = steps.view_user(user, recipe=recipe)
    if as_json:
        show(found)
    else:
        print_user(found)


def _named(models: Sequence[str] | None, settings: Settings) -> tuple[str, ...]:
    named = models or settings.served
    if not named:
        raise ValueError("no user model is served; name one with --model, or set USERMODEL_SERVING_MODELS")
    return tuple(dict.fromkeys(named))
