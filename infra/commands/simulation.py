"""A simulated cache, as tables for a person or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from infra.commands.options import console
from infra.commands.summary import BLANK
from serving.ercache.calibrated import Fit
from serving.ercache.curve import PUBLISHED_SAVED, Curve, Point, Recommendation, short
from serving.ercache.traces import Trace


def as_json(curve: Curve, recommended: Recommendation, fits: tuple[Fit, ...]) -> dict[str, Any]:
    """Everything."""
    return {
        "model": curve.model,
        "trace": curve.trace,
        "access": [asdict(fit) for fit in fits],
        "published_saved": PUBLISHED_SAVED,
        "ne_without": curve.ne_without,
        "curve": [asdict(point) for point in curve.points],
        "gain_lost": None if curve.losses is None else curve.losses.tolist(),
        "recommended": asdict(recommended),
    }


def print_simulation(trace: Trace, curve: Curve, recommended: Recommendation, fits: tuple[Fit, ...]) -> None:
    """The trace's access pattern beside the published one, the curve, the recommendation."""
    terminal = console(width=150)
    terminal.print(f"trace {trace.name}: {len(trace):,} requests of {trace.num_users:,} users", highlight=False)
    access = (
        f"{fit.found:.1%} ± {fit.standard_error:.1%} within {short(fit.seconds)} (ERCache: {fit.wanted:.0%})"
        for fit in fits
    )
    terminal.print(f"repeat requests: {', '.join(access)}", highlight=False)
    terminal.print(_curve(curve, recommended))
    terminal.print(
        f"recommended for {curve.model}: a direct TTL of {short(recommended.ttl_seconds)}: {recommended.why}",
        highlight=False,
    )


def _curve(curve: Curve, recommended: Recommendation) -> Table:
    low, high = PUBLISHED_SAVED
    table = Table(title=f"model {curve.model}, by direct TTL", title_justify="left")
    headings = [
        "TTL",
        "saved",
        "direct hits",
        "default",
        "age, mean",
        "p50",
        "p95",
        "p99",
        "added, p95",
        "NE",
        "gain lost",
    ]
    for heading in headings:
        table.add_column(heading, justify="right")
    losses = [None] * len(curve.points) if curve.losses is None else curve.losses.tolist()
    for point, loss in zip(curve.points, losses, strict=True):
        style = "bold" if point.ttl_seconds == recommended.ttl_seconds else None
        table.add_row(*_row(point), BLANK if loss is None else f"{loss:.2%}", style=style)
    table.caption = (
        f"saved: inferences not made, of one per request (ERCache at Meta, from summaries: {low:.0%} to {high:.0%}). "
        "Age: of the features behind an answer. Added: so much older than without a direct cache."
    )
    return table


def _row(point: Point) -> list[str]:
    of = point.statistics
    ages = ("mean", "p50", "p95", "p99")
    return [
        short(point.ttl_seconds),
        f"{of.saved:.1%}",
        f"{of.hits / of.requests:.1%}",
        f"{of.fallbacks / of.requests:.1%}",
        *(BLANK if of.staleness is None else short(getattr(of.staleness, age)) for age in ages),
        short(point.added_p95_seconds),
        BLANK if point.ne is None else f"{point.ne:.4f}",
    ]
