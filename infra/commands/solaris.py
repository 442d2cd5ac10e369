"""`usermodel serving solaris …`: a foundation model's representations of pairs, computed before they are asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from dags import pair_steps
from infra.commands.options import Day, MetricsHost, RecipeName, console, numbers, show
from infra.settings import LOOPBACK, get_settings

group = typer.Typer(help="Pairs of users and items, represented ahead of requests.", no_args_is_help=True)
Item = Annotated[
    str | None, typer.Option("--item", help="The feature that tells items apart.", show_default="the item side's first")
]


@group.command()
def work(
    recipe: RecipeName,
    ds: Day,
    item: Item = None,
    ttl_hours: Annotated[float, typer.Option(help="How long a representation is served.")] = 24.0,
    per_second: Annotated[float, typer.Option(help="The budget: pairs per second of all workers together.")] = float(
        "inf"
    ),
    partitions: Annotated[
        str | None, typer.Option("--partitions", help="Of the store's, this worker's: 0-3,6.", show_default="all")
    ] = None,
    metrics_port: Annotated[int, typer.Option(help="Of Prometheus' page; 0: none.")] = 0,
    metrics_host: MetricsHost = LOOPBACK,
) -> None:
    """Represent queued pairs with the model of the day, until SIGTERM: then it finishes what it took."""
    from features.days import parse_day
    from serving.features import FeatureCodec
    from serving.keys import Keys
    from serving.secured.listen import secured
    from serving.solaris.day import catalogue_of, foundation_of, item_of
    from serving.solaris.model import PairModel
    from serving.solaris.service import serve
    from serving.solaris.worker import Options
    from trainer.recipes import get_recipe

    settings, config, day = get_settings(), get_recipe(recipe), parse_day(ds)
    foundation = foundation_of(config, day, settings=settings)
    serve(
        foundation,
        catalogue_of(config, day, settings=settings, item=item_of(config.schema, item)),
        FeatureCodec(config.schema),
        model=PairModel(
            name=config.name, source=config.source.name, width=foundation.width, ttl_seconds=3_600 * ttl_hours,
            pairs_per_second=per_second,
        ),
        url=settings.feature_store(),
        keys=Keys(settings.redis_partitions),
        partitions=None if partitions is None else numbers(partitions),
        options=Options(),
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        demands=secured(metrics_host, settings),
    )  # fmt: skip


@group.command()
def predict(
    recipe: RecipeName,
    ds: Day,
    budget: Annotated[int, typer.Option("--budget", help="So many pairs, the likeliest.", min=1)] = 10_000,
    item: Item = None,
) -> None:
    """Queue the pairs that are likeliest on the day after; those that are computed and live a while are left out."""
    show(pair_steps.enqueue_pairs(recipe, ds, budget=budget, item=item))


@group.command()
def mirror(recipe: RecipeName, ds: Day) -> None:
    """Write what readers were served on the day, pair by pair, as a partition of the lake for downstream training."""
    show({"partition": pair_steps.mirror_pairs(recipe, ds)})


@group.command()
def user(
    user: Annotated[int, typer.Argument(help="The user's id.")],
    recipe: RecipeName,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what the feature store holds of a user's pairs, and how long the queue is."""
    from rich.table import Table

    found = pair_steps.view_pairs(recipe, user)
    if as_json:
        show(found)
        return
    terminal = console(width=120, highlight=False)
    if not found["pairs"]:
        terminal.print(f"{recipe}: {found['damage'] or 'no pair of this user'}", markup=False)
    else:
        table = Table(title=f"{recipe}, {found['width']} numbers a pair", title_justify="left")
        for name in ("item", "version", "features of", "written", "priority", "served"):
            table.add_column(name)
        for one in found["pairs"]:
            table.add_row(
                str(one["item"]), str(one["version"]), one["featured_at"], one["written_at"],
                f"{one['priority']:.4g}", "yes" if one["alive"] else "no",
            )  # fmt: skip
        terminal.print(table)
    terminal.print(f"queue: {found['waiting']} wait, {found['leased']} are worked on, {found['aside']} set aside")
