"""Where a training step's time goes, as tables for a person."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infra.commands.options import console

_PARTS = {
    "read": "wait for the next batch",
    "forward": "forward",
    "agree": "agree that the loss is finite",
    "score": "metrics",
    "backward": "backward, tables updated",
    "optimize": "dense optimizer",
}


def print_profile(profile: dict[str, Any]) -> None:
    """`profile`: what the step `profile` gives."""
    terminal = console(width=120)
    rate = profile["batch_size"] * profile["ranks"] / profile["step_ms"] * 1000
    terminal.print(
        f"{profile['model']} {profile['ds']}: {profile['steps']} steps of {profile['ranks']} x {profile['batch_size']} "
        f"examples on {profile['device']}, {profile['step_ms']:.1f} ms each, {rate:,.0f} examples/s, profiler included"
    )
    parts = {text: profile["parts"][part] for part, text in _PARTS.items()}
    terminal.print(_table("rank 0, by part of the step", parts, profile["step_ms"]))
    busiest = dict(sorted(profile["families"].items(), key=lambda item: -item[1]))
    terminal.print(_table("rank 0, by kind of operation", busiest, profile["step_ms"]))
    terminal.print(f"trace: {profile['trace']} (open it in https://ui.perfetto.dev)", soft_wrap=True)


def _table(title: str, milliseconds: dict[str, float], step_ms: float) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    for name, value in milliseconds.items():
        table.add_row(name, f"{value:.2f}", f"{100 * value / step_ms:.0f} %")
    return table
