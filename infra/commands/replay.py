"""`usermodel serving replay`: the modes of Table 2 as this world gives them, as a table, JSON and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dags import steps
from infra.commands.options import RecipeName, console, show

if TYPE_CHECKING:
    from serving.replay.result import ModeResult, Outcome, Replayed

_BLANK = "–"  # noqa: RUF001


def replay(
    recipe: RecipeName,
    days: Annotated[str, typer.Option("--days", help="FIRST..LAST; the first is learnt from and not scored.")],
    modes: Annotated[
        str, typer.Option("--modes", help="With commas; also frozen-once, async-versions, async-daily and the like.")
    ] = "frozen,batch,realtime,async",
    downstream: Annotated[
        str | None, typer.Option("--downstream", help="Who judges; default: the model's only consumer.")
    ] = None,
    frozen: Annotated[
        str | None, typer.Option("--frozen-ds", help="Day of the frozen snapshot; default: the oldest promoted.")
    ] = None,
    latency_ms: Annotated[
        str, typer.Option("--latency-ms", help="Of an inference, log-normal: MEDIAN or MEDIAN,P99.")
    ] = "8,32",
    delay_ms: Annotated[
        int, typer.Option("--delay-ms", help="From a request to when its computation can be read.")
    ] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything, instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a picture, PNG.")] = None,
) -> None:
    """Replay the modes of Table 2 in event time, and score them on the downstream model's next-day NE."""
    found = steps.replay_serving(
        recipe, days, downstream=downstream, modes=modes, frozen=frozen, latency_ms=latency_ms, delay_ms=delay_ms,
        say=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    if as_json:
        from serving.replay.result import to_json

        show(to_json(found))
    else:
        console(width=170, highlight=False).print(as_table(found))
    if plot is not None:
        from serving.replay.picture import plot_modes

        plot_modes(found, plot)
        typer.echo(f"wrote {plot}", err=True)


def as_table(found: Replayed) -> Table:
    """A row per mode."""
    table = Table(
        title=f"{found.downstream}, {found.days[1]} to {found.days[-1]}: NE by serving mode of {found.model}",
        title_justify="left",
    )
    headings = ["mode", "next day: NE diff %", "95 % interval", "of real-time's gain", "online: NE diff %"]
    headings += ["of real-time's gain", "paper: NE diff %", "of real-time's gain"]
    for heading in (*headings, "served", "fallbacks", "pooled", "newest, h", "mean, h"):
        table.add_column(heading, justify="right")
    for mode in found.modes:
        table.add_row(*_row(mode))
    table.caption = (
        f"Against NE {found.baseline_ne:.4f} without embeddings on the next day, {found.baseline_online_ne:.4f} online "
        "(every batch scored, then learnt, in event time). "
        f"{found.num_requests:,} requests, {found.num_examples:,} examples, {found.num_users:,} users. Frozen: the "
        f"snapshot of {found.frozen_ds}. A computation can be read {found.config.delay_ms} ms after its request; an "
        f"inference takes {found.config.latency.median_ms:g} ms (99 %: {found.config.latency.p99_ms:g} ms), real-time "
        f"waits {found.config.serving.window_ms:g} ms. Hours: age of the features. Intervals: bootstrap over users."
    )
    return table


def _row(mode: ModeResult) -> list[str]:
    from serving.replay.modes import PAPER

    paper = mode.paper_percent
    low, high = mode.next_day.interval
    return [
        mode.mode.name,
        f"{mode.next_day.diff_percent:+.3f}",
        f"{low:+.2f} … {high:+.2f}",
        _share(mode.next_day),
        f"{mode.online.diff_percent:+.3f}",
        _share(mode.online),
        _BLANK if paper is None else f"{paper:+.3f}",
        _BLANK if paper is None else f"{paper / PAPER['realtime']:.0%}",
        f"{mode.coverage:.1%}",
        f"{mode.fallback_rate:.2%}" if mode.mode.waits else _BLANK,
        f"{mode.mean_pooled:.2f}",
        f"{mode.newest_age_hours:.2f}",
        f"{mode.mean_age_hours:.2f}",
    ]


def _share(outcome: Outcome) -> str:
    if outcome.share_of_realtime is None or outcome.share_interval is None:
        return _BLANK
    low, high = outcome.share_interval
    return f"{outcome.share_of_realtime:.0%} ({low:.0%}…{high:.0%})"
