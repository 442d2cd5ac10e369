"""`usermodel trainer lineage`: the chain of a model's days as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from features.selection import described
from infra.commands.options import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from rich.console import Console

    from snapshots.lineage import Lineage, Link

DIGITS = 8
"""Of a fingerprint that are shown."""


def print_lineage(found: Lineage, learnt: Mapping[int, Mapping[str, Sequence[date]]]) -> None:
    """The days as rows, then what changed between them, who learnt from which version, and what to do.

    learnt: by version and downstream model, the days that had it to join.
    """
    terminal = console(width=140, highlight=False)
    terminal.print(_table(found))
    if where := {described(link.where) for link in found.links}.difference([""]):
        terminal.print(f"learnt from the examples where {' | '.join(sorted(where))}", soft_wrap=True, markup=False)
    for link in found.links:
        for change in link.changes:
            terminal.print(f"  {link.ds} r{link.revision} {change}", style="dim", soft_wrap=True, markup=False)
    for number, consumers in sorted(learnt.items()):
        by = ", ".join(f"{name} {min(days)}..{max(days)}" for name, days in consumers.items())
        terminal.print(f"  version {number} was there to join for {by}", style="dim", soft_wrap=True, markup=False)
    again = [link.ds for link in found.links if link.stale or link.late]
    print_what_to_do(terminal, found.registry, again, repair=f"usermodel trainer train --recipe {found.model}")


def print_what_to_do(terminal: Console, registry: str | None, again: Sequence[date], *, repair: str) -> None:
    """That the registry did not answer, and which days are to be trained again by which command."""
    if registry is not None:
        terminal.print(f"no versions: {registry}", style="yellow", soft_wrap=True, markup=False)
    if again:
        terminal.print(
            f"to repair: {repair} --ds {again[0]}"
            + (f", then the days after it up to {max(again)}" if len(again) > 1 else ""),
            style="yellow",
            soft_wrap=True,
        )


def _table(found: Lineage) -> Table:
    table = Table(title=f"{found.model}: lineage", title_justify="left")
    for name in ("day", "rev", "model", "parent", "examples", "ranks", "warm start", "stored", "version", "notes"):
        table.add_column(name, justify="right" if name in ("rev", "ranks") else "left")
    missing = {day.ds: day for day in found.missing}
    rows = [(link.ds, link.revision, link) for link in found.links] + [(ds, -1, None) for ds in missing]
    for ds, _, link in sorted(rows, key=lambda row: row[:2]):
        if link is not None:
            table.add_row(*_cells(link), style="dim" if link.superseded else None)
            continue
        note = "missing; its examples are built" if missing[ds].has_examples else "missing, and without examples"
        table.add_row(str(ds), *[""] * 8, note, style="red")
    return table


def _cells(link: Link) -> list[str]:
    parent = "-" if link.parent_ds is None else f"{link.parent_ds} {(link.parent_fingerprint or '')[:DIGITS]}"
    version = link.registered
    notes = [
        "superseded" if link.superseded else "",
        f"after a gap of {link.gap_days} days" if link.gap_days else "",
        f"STALE: {link.stale}" if link.stale else "",
        f"LATE DATA: {link.late}" if link.late else "",
    ]
    return [
        str(link.ds),
        str(link.revision),
        link.fingerprint[:DIGITS],
        parent,
        f"{link.num_examples:,} @ {link.examples.version}",
        str(link.ranks),
        link.carried_over or ("cold start" if link.parent_ds is None else "not recorded"),
        link.stored.partition(" (")[0],
        "-" if version is None else " ".join([str(version.number), version.decision, *version.aliases]),
        "; ".join(note for note in notes if note),
    ]
