"""The command line `usermodel`: one group per folder. Each command calls the same function as a DAG's task."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from infra.commands import experiments, features, infra, serving, snapshots, trainer

log = logging.getLogger("usermodel")

cli = typer.Typer(
    name="usermodel",
    help="Daily, sharded, served user models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@cli.callback()
def _program(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Daily, sharded, served user models."""
    log.setLevel(logging.DEBUG if debug else logging.INFO)


cli.add_typer(features.group, name="features")
cli.add_typer(trainer.group, name="trainer")
cli.add_typer(snapshots.group, name="snapshots")
cli.add_typer(serving.group, name="serving")
cli.add_typer(experiments.group, name="experiments")
cli.add_typer(infra.group, name="infra")


def app() -> None:
    """Run the program. What the user can mend is one line and exit code 2; `--debug` adds the traceback."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("torchrec", "torch", "alembic", "mlflow", "httpx", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        log.debug("failed", exc_info=True)
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
