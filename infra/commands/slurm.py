"""`usermodel infra slurm …`: a Slurm cluster on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.settings import get_settings

group = typer.Typer(help="A Slurm cluster on this machine: a controller and some nodes.", no_args_is_help=True)


@group.command()
def up(nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="How many.")] = 2) -> None:
    """Start the cluster, on loopback; Slurm's programs are this machine's, else Debian's, unpacked without root."""
    from infra.slurm import engine

    if not engine.up(get_settings(), num_nodes=nodes, say=typer.echo):
        typer.echo("the cluster is up already")


@group.command()
def down() -> None:
    """Cancel its jobs and stop it; state stays under .local/slurm."""
    from infra.slurm import engine

    engine.down(get_settings(), say=typer.echo)


@group.command()
def status() -> None:
    """Its daemons, nodes and jobs."""
    from infra.slurm import engine

    for line in engine.status(get_settings()):
        typer.echo(line)
