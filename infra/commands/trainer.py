"""`usermodel trainer …`: training of user models and of what consumes them."""

from __future__ import annotations

from typing import Annotated

import typer

from dags import steps
from infra.commands.options import Day, RecipeName, show

group = typer.Typer(help="Training of user models and of what consumes them.", no_args_is_help=True)


@group.command()
def train(
    recipe: RecipeName,
    ds: Day,
    after_gap: Annotated[
        bool, typer.Option("--after-gap", help="Continue from the newest earlier day when the day before is missing.")
    ] = False,
) -> None:
    """Train the user model one day further."""
    show(steps.train(recipe, ds, after_gap=after_gap))


@group.command()
def downstream(
    name: Annotated[str, typer.Option("--name", help="The downstream model, for example demo_ctr.")], ds: Day
) -> None:
    """Score a downstream model on the day with and without the embeddings, then train it."""
    show(steps.retrain_downstream(name, ds))
