"""`usermodel trainer plan`: what a cluster would do with a recipe, in text, JSON and a picture."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from infra.commands.options import console, show
from trainer.planning.cluster import GB, HARDWARE, Cluster
from trainer.recipes import get_recipe

if TYPE_CHECKING:
    from trainer.planning.forecast import Forecast
    from trainer.planning.planned import PlannedModel


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the plan goes besides the terminal."""

    as_json: bool
    plot: Path | None
    out: Path | None
    num_tables: int | None
    """None for all."""


def cluster_of(
    *,
    hosts: int,
    ranks_per_host: int,
    device: str,
    hbm_gb: float | None,
    ddr_gb: float | None,
    intra_host_gb: float | None,
    inter_host_gb: float | None,
) -> Cluster:
    """The cluster of the options; what is not given is the device's default. ValueError for what makes no sense."""
    if device not in HARDWARE:
        raise ValueError(f"--device {device}: plan for {' or '.join(HARDWARE)}")
    given = {
        "hbm_bytes": hbm_gb,
        "ddr_bytes": ddr_gb,
        "intra_host_bandwidth": intra_host_gb,
        "inter_host_bandwidth": inter_host_gb,
    }
    changes: dict[str, Any] = {name: int(value * GB) for name, value in given.items() if value is not None}
    return Cluster(hosts=hosts, ranks_per_host=ranks_per_host, hardware=replace(HARDWARE[device], **changes))


def how_many_tables(text: str) -> int | None:
    """`all` or a number."""
    if text == "all":
        return None
    if not text.isdigit():
        raise ValueError(f"--tables {text}: give a number, or all")
    return int(text)


def make_plan(
    recipe: str, cluster: Cluster, *, batch_size: int | None, ids_per_feature: float | None, output: Output
) -> None:
    """Plan and print. DoesNotFitError names the smallest cluster that would do."""
    logging.disable(logging.INFO)  # FBGEMM names every library that it loads
    from trainer.config import TrainingConfig
    from trainer.planning.forecast import forecast
    from trainer.planning.misfit import DoesNotFitError
    from trainer.planning.model_plan import IDS_PER_FEATURE, ModelPlanner
    from trainer.planning.report import as_json, misfit_json
    from trainer.planning.smallest import smallest_cluster

    logging.disable(logging.NOTSET)
    planner = ModelPlanner(
        TrainingConfig.of(get_recipe(recipe)),
        batch_size=batch_size,
        ids_per_feature=IDS_PER_FEATURE if ids_per_feature is None else ids_per_feature,
    )
    smallest = smallest_cluster(cluster, planner.plan)
    try:
        planned = planner.plan(cluster)
    except DoesNotFitError as error:
        _emit(misfit_json(error, recipe=recipe, cluster=cluster, smallest=smallest), output)
        remedy = f"the smallest cluster of such hosts that fits: {smallest}" if smallest else "no number of hosts fits"
        raise DoesNotFitError(f"{recipe} {error}. {remedy[0].upper()}{remedy[1:]}") from error
    cost = forecast(planned)
    _emit(as_json(planned, cost, recipe=recipe, smallest=smallest), output)
    if not output.as_json:
        _print(planned, cost, recipe=recipe, smallest=smallest, num_tables=output.num_tables)
    if output.plot is not None:
        from trainer.planning.picture import plot_plan

        plot_plan(cost, output.plot, title=f"{recipe} on {cluster}, batch {planned.batch_size} per rank")
        typer.echo(f"wrote {output.plot}", err=True)


def _emit(document: dict[str, Any], output: Output) -> None:
    if output.as_json:
        show(document)
    if output.out is not None:
        output.out.write_text(json.dumps(document, indent=1) + "\n")
        typer.echo(f"wrote {output.out}", err=True)


def _print(
    planned: PlannedModel, cost: Forecast, *, recipe: str, smallest: Cluster | None, num_tables: int | None
) -> None:
    from trainer.planning.text import as_tables

    tables = as_tables(planned, cost, title=recipe, smallest=smallest, num_tables=num_tables)
    console(width=120, highlight=False).print(tables)
