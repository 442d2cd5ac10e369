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
