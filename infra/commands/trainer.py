"""`usermodel trainer …`: training of user models and of what consumes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dags import steps
from infra.commands.consumer_lineage import print_consumer_lineage
from infra.commands.explain import print_explanation
from infra.commands.jobs import cancel, jobs, manifest
from infra.commands.lineage import print_lineage
from infra.commands.options import Day, RecipeName, show
from infra.commands.plan import Output, cluster_of, how_many_tables, make_plan
from infra.commands.profile import print_profile
from snapshots.summary import plain

group = typer.Typer(help="Training of user models and of what consumes them.", no_args_is_help=True)
group.command()(jobs)
group.command()(cancel)
group.command()(manifest)
_ONE_MODEL = "name one model: --recipe R or --downstream NAME"


@group.command()
def train(
    recipe: RecipeName,
    ds: Day,
    after_gap: Annotated[
        bool, typer.Option("--after-gap", help="Continue from the newest earlier day when the day before is missing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only show where a step's time goes, and write a trace; publish nothing.")
    ] = False,
    profile_steps: Annotated[int, typer.Option("--profile-steps", min=1, help="Steps to profile.")] = 50,
) -> None:
    """Train the user model one day further."""
    if profile:
        print_profile(steps.profile(recipe, ds, steps=profile_steps))
    else:
        show(steps.train(recipe, ds, after_gap=after_gap))


@group.command()
def lineage(
    recipe: Annotated[str | None, typer.Option("--recipe", help="The user model's recipe.")] = None,
    downstream: Annotated[str | None, typer.Option("--downstream", help="Or a downstream model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the chain of trained days: parents, revisions, versions, what was joined, what is stale, late or missing."""
    if (recipe is None) == (downstream is None):
        raise ValueError(_ONE_MODEL)
    if recipe is not None:
        found = steps.lineage(recipe)
        learnt = {} if found.registry else steps.learnt_from(recipe)
        show(found.summary() | {"learnt": plain(learnt)}) if as_json else print_lineage(found, learnt)
    if downstream is not None:
        of_consumer = steps.consumer_lineage(downstream)
        show(of_consumer.summary()) if as_json else print_consumer_lineage(of_consumer)


@group.command()
def prune(
    recipe: RecipeName,
    keep_days: Annotated[
        int | None,
        typer.Option("--keep-days", min=1, help="The newest trained days, which stay; default: the recipe's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
) -> None:
    """Delete checkpoints of old days; what a kept one is an increment of stays."""
    show(steps.prune_checkpoints(recipe, keep_days=keep_days, dry_run=dry_run))


@group.command()
def downstream(
    name: Annotated[str, typer.Option("--name", help="The downstream model, for example demo_ctr.")], ds: Day
) -> None:
    """Score a downstream model on the day with and without the embeddings, then train it."""
    show(steps.retrain_downstream(name, ds))


@group.command()
def explain(
    ds: Day,
    recipe: Annotated[str | None, typer.Option("--recipe", help="The user model's recipe.")] = None,
    downstream: Annotated[str | None, typer.Option("--downstream", help="Or a downstream model.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Examples of the day to score.")] = 20_000,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Permutations of each feature.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and the permutations.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Rank a model's features by how much NE rises when one is permuted (section 6.1.2)."""
    if recipe is not None and downstream is None:
        found = steps.explain(recipe, ds, rows=rows, repeats=repeats, seed=seed)
    elif downstream is not None and recipe is None:
        found = steps.explain_downstream(downstream, ds, rows=rows, repeats=repeats, seed=seed)
    else:
        raise ValueError(_ONE_MODEL)
    if as_json:
        show(found)
    else:
        print_explanation(found)


@group.command()
def plan(
    recipe: RecipeName,
    hosts: Annotated[int, typer.Option("--hosts", help="Equal hosts.")] = 1,
    ranks_per_host: Annotated[
        int, typer.Option("--gpus-per-host", "--ranks-per-host", help="GPUs, or CPU ranks, of a host.")
    ] = 8,
    device: Annotated[str, typer.Option("--device", help="cuda or cpu.")] = "cuda",
    hbm_gb: Annotated[float | None, typer.Option("--hbm-gb", help="Memory of one GPU, 10^9 bytes; default 80.")] = None,
    ddr_gb: Annotated[
        float | None, typer.Option("--ddr-gb", help="Memory of one host; default 1000 (cuda), 512 (cpu).")
    ] = None,
    intra_host_gb: Annotated[
        float | None, typer.Option("--intra-host-gb", help="GB/s of a rank within its host; default 240, 2.")
    ] = None,
    inter_host_gb: Annotated[
        float | None, typer.Option("--inter-host-gb", help="GB/s of a rank between hosts; default 20, 1.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Examples per rank and step; default: the recipe's.")
    ] = None,
    ids_per_feature: Annotated[
        float | None, typer.Option("--ids-per-feature", help="Mean length of an id list; default 10.")
    ] = None,
    tables: Annotated[str, typer.Option("--tables", help="How many of the largest to list, or all.")] = "10",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything, instead of tables.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a picture, PNG.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the JSON to a file.")] = None,
) -> None:
    """Plan the tables for a cluster, without it: memory, step cost, traffic, what does not fit."""
    cluster = cluster_of(
        hosts=hosts,
        ranks_per_host=ranks_per_host,
        device=device,
        hbm_gb=hbm_gb,
        ddr_gb=ddr_gb,
        intra_host_gb=intra_host_gb,
        inter_host_gb=inter_host_gb,
    )
    output = Output(as_json=as_json, plot=plot, out=out, num_tables=how_many_tables(tables))
    make_plan(recipe, cluster, batch_size=batch_size, ids_per_feature=ids_per_feature, output=output)
