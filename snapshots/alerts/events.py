"""`alerts/<model>`: what happened to each alert, appended and never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

import pyarrow as pa

from features.appended import append, read_all
from features.lake import Lake
from features.schema import DS

What = Literal["raised", "told", "not told", "decided"]

EVENTS = pa.schema(
    [
        ("id", pa.string()),
        ("what", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("version", pa.int32()),
        ("kind", pa.string()),
        ("severity", pa.string()),
        ("title", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("report", pa.string()),
        ("runbook", pa.string()),
        ("reached", pa.list_(pa.string())),
        ("decision", pa.string()),
        ("by", pa.string()),
        ("note", pa.string()),
        (DS, pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to the alert `id`: it was raised, told (or not) to whom, decided by whom and why."""

    id: str
    ds: date
    what: What
    at: datetime
    version: int | None = None
    kind: str = ""
    severity: str = ""
    title: str = ""
    reasons: tuple[str, ...] = ()
    report: str = ""
    runbook: str = ""
    reached: tuple[str, ...] = ()
    decision: str = ""
    by: str = ""
    note: str = ""


def now() -> datetime:
    """When it happened: a record for people; nothing is computed from it but the order."""
    return datetime.now(UTC)


def table_of(model: str) -> str:
    """The lake's table of the model's alerts."""
    return f"alerts/{model}"


def append_event(lake: Lake, model: str, event: Event) -> None:
    """Add one row, in a commit of its own."""
    rows = pa.Table.from_pylist([vars(event) | {DS: event.ds.isoformat()}], schema=EVENTS)
    append(lake, table_of(model), rows)


def read_events(lake: Lake, model: str) -> Sequence[Event]:
    """Every event of the model's alerts, in the order in which they happened."""
    if (rows := read_all(lake, table_of(model))) is None:
        return ()
    # a commit whose acknowledgement was lost on the way is made again: the same event
    found = dict.fromkeys(_event(row) for row in rows.select(EVENTS.names).to_pylist())
    return sorted(found, key=lambda event: event.at)


def _event(row: dict[str, Any]) -> Event:
    lists = {name: tuple(row[name] or ()) for name in ("reasons", "reached")}
    return Event(**(row | lists | {DS: date.fromisoformat(row[DS])}))
