"""The feature importance ranking as tables for a person, one per task."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infra.commands.options import console

_TOLD = {"helps": "", "zero": "not told from zero", "harms": "better without"}


def print_explanation(explanation: dict[str, Any]) -> None:
    """`explanation`: what the step `explain` gives."""
    terminal = console(width=150)
    terminal.print(
        f"{explanation['model']} as of {explanation['scored_ds']}, which has not learnt {explanation['ds']}, scored on "
        f"{explanation['num_rows']} examples of it; each feature permuted {explanation['repeats']} times"
    )
    for ranking in explanation["rankings"]:
        terminal.print(_table(ranking))
    terminal.print(f"table and picture: MLflow run {explanation['run_id']}, folder explain/ds={explanation['ds']}")


def _table(ranking: dict[str, Any]) -> Table:
    title = f"{ranking['task']}: NE {ranking['ne']:.4f}, {ranking['positives']} positives"
    table = Table(title=title, title_justify="left")
    table.add_column("rank", justify="right")
    for heading in ("feature", "side", "kind"):
        table.add_column(heading)
    for heading in ("NE increase", "± std. error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for found in ranking["importances"]:
        feature = found["feature"]
        table.add_row(
            str(found["rank"]),
            f"{feature['name']} (together)" if feature["members"] else feature["name"],
            feature["side"],
            feature["kind"],
            f"{found['increase']:+.5f}",
            f"{found['error']:.5f}",
            _TOLD[found["verdict"]],
        )
    return table
