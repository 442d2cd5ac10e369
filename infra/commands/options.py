"""What the commands share: their options, and how they print an outcome."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

RecipeName = Annotated[str, typer.Option("--recipe", help="The user model's recipe, for example demo or globo.")]
Day = Annotated[str, typer.Option("--ds", help="The day of data, YYYY-MM-DD.")]

MetricsHost = Annotated[
    str, typer.Option("--metrics-host", help="Address of Prometheus' page; beyond loopback it demands TLS and a token.")
]


def show(outcome: dict[str, Any]) -> None:
    """Print a step's outcome as JSON, one object."""
    typer.echo(json.dumps(outcome, indent=2, default=str))


def console(*, width: int, highlight: bool = True) -> Console:
    """The terminal's own width, or `width` where the output is no terminal."""
    return Console(width=None if Console().is_terminal else width, highlight=highlight)


def numbers(text: str) -> list[int]:
    """`0-3,6` as numbers. ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"partitions {text!r}; give numbers and ranges, for example 0-3,6")
        found += range(int(first), int(last or first) + 1)
    return found
