"""What the commands share: their options, and how they print an outcome."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

RecipeName = Annotated[str, typer.Option("--recipe", help="The user model's recipe, for example demo or globo.")]
Day = Annotated[str, typer.Option("--ds", help="The day of data, YYYY-MM-DD.")]


def show(outcome: dict[str, Any]) -> None:
    """Print a step's outcome as JSON, one object."""
    typer.echo(json.dumps(outcome, indent=2, default=str))
