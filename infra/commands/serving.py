"""`usermodel serving …`: what serves embeddings online."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.commands.ercache import simulate
from infra.commands.options import RecipeName
from infra.settings import LOOPBACK, get_settings
from trainer.recipes import get_recipe

group = typer.Typer(help="Serving: embeddings, fresh on every request.", no_args_is_help=True)
group.command()(simulate)


@group.command()
def shard(
    recipe: RecipeName,
    index: Annotated[int, typer.Option("--index", help="Which shard this is, from 0.")],
    of: Annotated[int, typer.Option("--of", help="How many there are.")],
    port: Annotated[int, typer.Option("--port", help="0: any that is free; it is printed.", min=0, max=65535)],
    host: Annotated[str, typer.Option("--host", help="Whoever reaches this address can read the weights.")] = LOOPBACK,
) -> None:
    """Serve a share of the rows of the model's tables to workers, until told to end."""
    from serving.shards.partition import Share
    from serving.shards.server import serve

    name = get_recipe(recipe).name
    serve(get_settings().artifacts / name, Share(index=index, of=of), host=host, port=port, ready=typer.echo)


@group.command()
def http(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int | None, typer.Option(help="Port; default: the setting's, 0: any free one.")] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A user model's recipe, repeated; default: the setting's.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name this service is called by, besides loopback's; repeated.")
    ] = None,
) -> None:
    """Serve embeddings, health, metrics and users' pages by HTTP until SIGTERM; requests under way are ended."""
    from serving.http.limits import LOOPBACK_HOSTS, Limits
    from serving.http.server import serve

    settings = get_settings()
    names = tuple(models or settings.served)
    if not names:
        raise ValueError("no user model is served: name one with --model, or set USERMODEL_SERVING_MODELS")
    serve(
        names,
        store_url=settings.feature_store(),
        partitions=settings.redis_partitions,
        host=host,
        port=settings.serving_port if port is None else port,
        limits=Limits(hosts=LOOPBACK_HOSTS | {name.lower() for name in allow_host or ()}),
    )
