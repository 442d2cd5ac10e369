"""`usermodel snapshots alerts`: the alerts of a model as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infra.commands.options import console


def print_alerts(found: list[dict[str, Any]]) -> None:
    """One row per alert, the open ones marked, each with its reasons."""
    terminal = console(width=140, highlight=False)
    table = Table(
        title=f"{sum(alert['open'] for alert in found)} of {len(found)} alerts are open", title_justify="left"
    )
    for name in ("raised", "day", "version", "alert", "state", "by, note", "told", "runbook"):
        table.add_column(name, overflow="fold")
    for alert in found:
        table.add_row(*_cells(alert), style="bold red" if alert["open"] else None)
    terminal.print(table)
    for alert in (alert for alert in found if alert["open"]):
        terminal.print(alert["title"], style="bold", soft_wrap=True, markup=False)
        for reason in alert["reasons"]:
            terminal.print(f"  {reason}", soft_wrap=True, markup=False)


def _cells(alert: dict[str, Any]) -> list[str]:
    state = "open" if alert["open"] else alert["decision"]
    if alert["open"] and alert["decision"]:
        state += f", {alert['decision']}"
    decided = [alert["decided_by"], (alert["decided_at"] or "")[:16], alert["note"]]
    return [
        alert["raised_at"][:16],
        alert["ds"],
        "" if alert["version"] is None else str(alert["version"]),
        f"{alert['severity']}: {alert['kind']}",
        state,
        " ".join(filter(None, decided)),
        alert["undelivered"] or ", ".join(alert["reached"]) or "nobody: no URL is set",
        alert["runbook"],
    ]
