"""`usermodel infra sizes`: what a deployment needs, out of the plan."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import RecipeName, show
from infra.commands.plan import cluster_of


def sizes(
    recipe: RecipeName,
    users: Annotated[int, typer.Option(help="Users with an entry in the feature store.", min=1)],
    requests_per_second: Annotated[float, typer.Option(help="Requests for embeddings at the peak.")],
    hosts: Annotated[int, typer.Option(help="That train.", min=1)] = 1,
    ranks_per_host: Annotated[int, typer.Option(help="CPU ranks or GPUs of one of them.", min=1)] = 2,
    device: Annotated[str, typer.Option(help="Of training: cpu or cuda.")] = "cpu",
    ids_per_feature: Annotated[float, typer.Option(help="Mean length of an id list.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Write values for the Helm chart here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Memory, cores and replicas of every part, out of the sharding plan and measured rates."""
    logging.disable(logging.INFO)  # FBGEMM names every library that it loads
    from infra.deployment.sizes import Load, sizes_of
    from infra.deployment.values import text_of, values_of
    from trainer.config import TrainingConfig
    from trainer.planning.forecast import forecast
    from trainer.planning.model_plan import ModelPlanner
    from trainer.recipes import get_recipe

    logging.disable(logging.NOTSET)
    config, load = get_recipe(recipe), Load(
        users=users, requests_per_second=requests_per_second, ids_per_feature=ids_per_feature
    )  # fmt: skip
    cluster = cluster_of(
        hosts=hosts, ranks_per_host=ranks_per_host, device=device,
        hbm_gb=None, ddr_gb=None, intra_host_gb=None, inter_host_gb=None,
    )  # fmt: skip
    planned = ModelPlanner(TrainingConfig.of(config), ids_per_feature=ids_per_feature).plan(cluster)
    found = sizes_of(config, planned, forecast(planned), load)
    if as_json:
        show(asdict(found))
    else:
        typer.echo(text_of(found))
    if out is not None:
        out.write_text(json.dumps(values_of(found), indent=1) + "\n")
        typer.echo(f"wrote {out}", err=True)
