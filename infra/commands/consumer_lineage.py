"""`usermodel trainer lineage --downstream N`: the chain of a downstream model's days as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from infra.commands.lineage import DIGITS, print_what_to_do
from infra.commands.options import console

if TYPE_CHECKING:
    from snapshots.consumer_lineage import ConsumerLineage, ConsumerLink, JoinedDay

_SHOWN = 3
"""Joined versions of a user model; the rest are counted."""


def print_consumer_lineage(found: ConsumerLineage) -> None:
    """The days as rows, then what to do."""
    terminal = console(width=160, highlight=False)
    terminal.print(_table(found))
    again = [link.ds for link in found.links if link.stale or link.late]
    print_what_to_do(terminal, found.registry, again, repair=f"usermodel trainer downstream --name {found.model}")


def _table(found: ConsumerLineage) -> Table:
    table = Table(title=f"downstream.{found.model}: lineage", title_justify="left")
    for name in ("day", "rev", "version", "model", "parent", "examples"):
        table.add_column(name, justify="right" if name in ("rev", "version") else "left")
    for model in found.upstreams:
        table.add_column(f"{model}, newest first")
    for name in ("NE without", "NE with", "difference"):
        table.add_column(name, justify="right")
    table.add_column("notes")
    for link in found.links:
        table.add_row(*_cells(link, found.upstreams), style="dim" if link.superseded else None)
    return table


def _cells(link: ConsumerLink, upstreams: tuple[str, ...]) -> list[str]:
    parent = "-" if link.parent_ds is None else f"{link.parent_ds} {(link.parent_fingerprint or '')[:DIGITS]}"
    scores = link.scores
    notes = [
        "superseded" if link.superseded else "",
        f"STALE: {link.stale}" if link.stale else "",
        f"LATE: {link.late}" if link.late else "",
    ]
    return [
        str(link.ds),
        str(link.revision),
        "-" if link.version is None else str(link.version),
        link.fingerprint[:DIGITS],
        parent,
        f"{link.num_examples:,} @ {link.examples.version}",
        *(_joined(link.joined.get(model, ())) for model in upstreams),
        "-" if scores is None or scores.baseline.ne is None else f"{scores.baseline.ne:.4f}",
        "-" if scores is None or scores.sum.ne is None else f"{scores.sum.ne:.4f}",
        "first day" if scores is None else f"{scores.ne_diff_percent:+.2f} %",
        "; ".join(note for note in notes if note),
    ]


def _joined(days: tuple[JoinedDay, ...]) -> str:
    """`v5 2026-01-05, v4 2026-01-04`; a withdrawn one is struck off by a word."""
    shown = [
        f"v{day.version if day.version is not None else '?'} {day.ds}{' withdrawn' if day.withdrawn else ''}"
        for day in days[:_SHOWN]
    ]
    more = [f"and {len(days) - _SHOWN} more"] if len(days) > _SHOWN else []
    return ", ".join([*shown, *more]) or "none"
