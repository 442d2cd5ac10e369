"""`usermodel trainer jobs | cancel | manifest`: jobs that outlive who submitted them."""

from __future__ import annotations

from typing import Annotated

import typer

from dags import steps
from infra.commands.options import Day, RecipeName, show


def jobs(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the training jobs on Slurm or Kubernetes that nobody collected yet, with their states."""
    found = steps.jobs()
    if as_json:
        show({"jobs": found})
        return
    if not found:
        typer.echo("no jobs")
    for job in found:
        typer.echo(
            "  ".join(str(job[name]) for name in ("model", "ds", "scheduler", "job", "state", "reason")).rstrip()
        )


def cancel(recipe: RecipeName, ds: Day) -> None:
    """Cancel the day's training job, and give its lock back."""
    show(steps.cancel_job(recipe, ds))


def manifest(recipe: RecipeName, ds: Day) -> None:
    """Print what the scheduler would be given for the day: Kubernetes YAML, or Slurm's batch script."""
    typer.echo(steps.manifest(recipe, ds), nl=False)
