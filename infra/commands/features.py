"""`usermodel features …`: the lake."""

from __future__ import annotations

import typer

from dags import steps
from infra.commands.options import Day, RecipeName, show

group = typer.Typer(help="The lake: examples, user features, what was rejected.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    pass


@group.command()
def build(recipe: RecipeName, ds: Day) -> None:
    """Build the day's examples and user features from its landed log."""
    show(steps.build_examples(recipe, ds))
