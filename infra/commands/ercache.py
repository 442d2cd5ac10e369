"""`usermodel serving simulate` and `measure`: what a cache in front of the inference would save, and cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import Day, show


def simulate(
    recipe: Annotated[str, typer.Option("--recipe", help="The user model, for its policy and its requests.")] = "",
    trace: Annotated[
        str, typer.Option("--trace", help="examples, clicks, unstamped or calibrated (to ERCache's pattern).")
    ] = "examples",
    days: Annotated[str, typer.Option("--days", help="FIRST..LAST.", show_default="all in the lake")] = "",
    ttl: Annotated[
        list[float] | None, typer.Option("--ttl", help="Direct TTLs, seconds.", show_default="1 s to 24 h")
    ] = None,
    ne: Annotated[Path | None, typer.Option("--ne", help="A measured relation of NE to staleness, JSON.")] = None,
    gain_lost: Annotated[float, typer.Option("--gain-lost", help="Share of the gain in NE that may be lost.")] = 0.05,
    added_seconds: Annotated[
        float, typer.Option("--added-seconds", help="Without --ne: so much older 95 % of answers may be.")
    ] = 600.0,
    latency_ms: Annotated[float, typer.Option("--latency-ms", help="From a request to the write of its vector.")] = 5.0,
    failure_rate: Annotated[float, typer.Option("--failure-rate", help="Share of inferences that fail.")] = 0.0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curve to this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything, instead of tables.")] = False,
) -> None:
    """What a direct cache (ERCache) would save, and what it would cost; recommends a TTL."""
    from features.days import parse_days
    from infra.commands.simulation import as_json as described
    from infra.commands.simulation import print_simulation
    from infra.settings import get_settings
    from serving.ercache.calibrated import goodness
    from serving.ercache.choose import choose
    from serving.ercache.curve import Budget, recommend, sweep
    from serving.ercache.plot import plot as draw
    from serving.ercache.relation import NeByStaleness
    from serving.ercache.replay import Conditions
    from trainer.recipes import get_recipe
    from trainer.serving import Serving

    model = get_recipe(recipe) if recipe else None
    budget = Budget(gain_share=gain_lost, added_p95_seconds=added_seconds)
    conditions = Conditions(latency_ms=latency_ms, failure_rate=failure_rate)
    relation = None if ne is None else NeByStaleness.load(ne)
    requests = choose(trace, model.source if model else None, parse_days(days) if days else (), settings=get_settings())
    curve = sweep(
        requests,
        model.serving if model else Serving(),
        model=recipe or "any",
        ttls=ttl,
        conditions=conditions,
        ne=relation,
    )
    recommended, fits = recommend(curve, budget), goodness(requests)
    if plot is not None:
        draw(curve, recommended, plot)
    if as_json:
        show(described(curve, recommended, fits))
    else:
        print_simulation(requests, curve, recommended, fits)


def measure(
    name: Annotated[str, typer.Option("--name", help="The consumer whose NE is measured, for example globo_ctr.")],
    ds: Day,
    to: Annotated[Path | None, typer.Option("--to", help="Write the relation here, for `simulate --ne`.")] = None,
    ttl: Annotated[
        list[float] | None, typer.Option("--ttl", help="Direct TTLs, seconds.", show_default="10 s to 24 h")
    ] = None,
    learnt_ttl: Annotated[
        float, typer.Option("--learnt-ttl", help="The consumer learns from answers of a cache of this TTL.")
    ] = 0.0,
    seeds: Annotated[int, typer.Option("--seeds", help="Consumers that are learnt and averaged.", min=1)] = 4,
) -> None:
    """The NE that a direct cache costs a consumer, on the requests of a day in the lake and of the three before."""
    from datetime import timedelta

    from features.days import parse_day
    from features.lake import Lake
    from infra.settings import get_settings
    from serving.ercache import measure as measuring
    from snapshots.embedder import embedder_of
    from snapshots.registry import Registry
    from trainer.recipes import get_downstream, get_recipe

    consumer, day, settings = get_downstream(name), parse_day(ds), get_settings()
    embedded = day - timedelta(days=measuring.HISTORY_DAYS)
    upstream = consumer.only_upstream
    promoted = Registry(settings).promoted(upstream, before=day)
    version = next((one for one in promoted if one.ds == embedded), None)
    if version is None:
        raise ValueError(f"{upstream} has no promoted version of {embedded}, by which the days after are embedded")
    found = measuring.measure(
        get_recipe(upstream),
        consumer,
        day,
        embedder_of(version),
        lake=Lake(settings.lake),
        ttls=tuple(sorted({*(ttl or measuring.TTLS), learnt_ttl} - {0.0})),
        learnt_ttl=learnt_ttl,
        seeds=range(seeds),
    )
    if to is not None:
        found.relation.save(to)
    show({**asdict(found), "version": version.number})
