"""`usermodel snapshots …`: publish, embed, judge, promote."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import typer

from dags import steps
from infra.commands.alerts import print_alerts
from infra.commands.compare import print_comparison
from infra.commands.options import Day, RecipeName, show

group = typer.Typer(help="Snapshots: publish, embed, judge, promote.", no_args_is_help=True)
By = Annotated[str, typer.Option("--by", help="Who decides; recorded with the decision.", show_default="you")]
Note = Annotated[str, typer.Option("--note", help="Why; recorded with the decision.")]
ME = getpass.getuser()


@group.command()
def publish(recipe: RecipeName, ds: Day) -> None:
    """Register the day's user tower as a sealed version, alias `candidate`."""
    show(steps.publish(recipe, ds))


@group.command()
def infer(
    recipe: RecipeName,
    ds: Day,
    workers: Annotated[int, typer.Option("--workers", help="Processes; each embeds one shard at a time.")] = 1,
    shard: Annotated[
        int | None, typer.Option("--shard", help="Embed this shard alone, and commit nothing.", show_default="all")
    ] = None,
) -> None:
    """Embed every active user of the day; finished shards are left as they are."""
    show(steps.infer(recipe, ds, workers=workers) if shard is None else steps.infer_shard(recipe, ds, shard))


@group.command()
def shift(recipe: RecipeName, ds: Day) -> None:
    """Measure how far the embeddings moved."""
    show(steps.check_shift(recipe, ds))


@group.command()
def gate(recipe: RecipeName, ds: Day) -> None:
    """Judge the day by the recipe's thresholds."""
    show(steps.gate(recipe, ds))


@group.command()
def report(recipe: RecipeName, ds: Day) -> None:
    """Print the day's report."""
    typer.echo(steps.read_report(recipe, ds))


@group.command()
def compare(
    a: Annotated[str, typer.Argument(help="A version: its number, its day, or champion, previous, candidate.")],
    b: Annotated[str, typer.Argument(help="The version that it is compared with.")],
    recipe: RecipeName,
    rows: Annotated[int, typer.Option("--rows", help="Examples that both are scored on.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the examples and of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything, instead of tables.")] = False,
) -> None:
    """Compare two versions: scores on the same examples, shift, features, and what they were made with."""
    found = steps.compare(recipe, a, b, rows=rows, seed=seed)
    if as_json:
        show(found)
    else:
        print_comparison(found)


@group.command()
def promote(
    recipe: RecipeName,
    ds: Day,
    by: By = ME,
    note: Note = "",
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="A day before the champion's: make it visible, keep the champion.")
    ] = False,
) -> None:
    """Make the day's version the champion and its embeddings visible to consumers."""
    promotion = steps.promote(recipe, ds, by=by, note=note, allow_older=allow_older)
    show(promotion)
    _tell_consumers(recipe, promotion)


@group.command()
def hold(recipe: RecipeName, ds: Day, by: By = ME, note: Note = "") -> None:
    """Keep the day's version from consumers until a person decides."""
    show(steps.hold(recipe, ds, by=by, note=note))


@group.command()
def reject(recipe: RecipeName, ds: Day, by: By = ME, note: Note = "") -> None:
    """Refuse the day's version."""
    show(steps.reject(recipe, ds, by=by, note=note))


@group.command()
def rollback(
    recipe: RecipeName,
    ds: Annotated[
        str | None,
        typer.Option(
            "--ds", help="A promoted day that does not serve: reject it, keep the champion.", show_default="champion"
        ),
    ] = None,
    by: By = ME,
    note: Note = "",
) -> None:
    """Make the previous champion the champion again."""
    how = {"by": by, "note": note}
    promotion = steps.rollback(recipe, **how) if ds is None else steps.take_back(recipe, ds, **how)
    show(promotion)
    _tell_consumers(recipe, promotion)


@group.command()
def release(recipe: RecipeName) -> None:
    """Let the newest promoted version that every consumer has learnt serve."""
    from trainer.recipes import get_recipe

    found = steps.release(recipe)
    show(found)
    if found["partitions"]:
        kind = "released" if get_recipe(recipe).serving.after == "learning" else "user"
        _tell(f"{kind}_embeddings/{recipe}", found)


@group.command()
def alerts(
    recipe: RecipeName,
    send: Annotated[bool, typer.Option("--send", help="First send what was not delivered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything, instead of a table.")] = False,
) -> None:
    """List the model's alerts: what is open, who decided what, when and why."""
    found = steps.alerts(recipe, send=send)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_alerts(found)


@group.command()
def freshness(
    recipe: RecipeName,
    now: Annotated[str | None, typer.Option("--now", help="ISO 8601 with a time zone; default: now.")] = None,
) -> None:
    """Say whether the newest promoted day is in time; if not, raise the alarm and exit with status 1."""
    found = steps.check_freshness(recipe, now=now or datetime.now(UTC).isoformat())
    show(found)
    if found["days_behind"]:
        raise typer.Exit(1)


@group.command()
def prune(
    recipe: RecipeName,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", help="The newest days of data, which stay; default: the recipe's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why the rest stays.")] = False,
) -> None:
    """Delete snapshots and candidate embeddings that nothing points to; what consumers see stays."""
    show(steps.prune_snapshots(recipe, keep_days=keep_days, dry_run=dry_run))


def _tell_consumers(recipe: str, promotion: dict[str, Any]) -> None:
    """What the DAG's own task does: emit the partition events that the consumers' DAGs wait for."""
    _tell(f"user_embeddings/{recipe}", promotion)


def _tell(asset: str, news: dict[str, Any]) -> None:
    from infra.airflow import Airflow
    from infra.orchestrator import airflow_token
    from infra.settings import get_settings

    settings = get_settings()
    try:
        token = airflow_token(settings)
    except httpx.HTTPError as error:
        typer.echo(
            f"done, but Airflow at {settings.airflow} does not answer ({error}): consumers are not told; repeat this",
            err=True,
        )
        raise typer.Exit(1) from error
    with Airflow(settings, token=token) as airflow:
        for ds in news["partitions"]:
            airflow.announce(asset, ds, news)
    typer.echo(f"consumers of {', '.join(news['partitions'])} are told", err=True)
