"""`alerts/<model>`: what happened to each alert, appended and never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from features.lake import Lake
from features.schema import DS
from features.storage import table_files

What = Literal["raised", "told", "not told", "decided"]

_ATTEMPTS = 5

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
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            write_deltalake(lake.uri(table_of(model)), rows, mode="append", partition_by=[DS])
            return
        except DeltaError as error:
            # of two writers that make the table one is late; an append never contradicts another
            if attempt == _ATTEMPTS or not (isinstance(error, CommitFailedError) or "already exists" in str(error)):
                raise


def read_events(lake: Lake, model: str) -> Sequence[Event]:
    """Every event of the model's alerts, in the order in which they happened."""
    table = table_of(model)
    if (delta := lake.open(table)) is None:
        return ()
    rows = delta.to_pyarrow_dataset(filesystem=table_files(lake.uri(table))).to_table(columns=EVENTS.names).to_pylist()
    return sorted((_event(row) for row in rows), key=lambda event: event.at)


def _event(row: dict[str, Any]) -> Event:
    lists = {name: tuple(row[name] or ()) for name in ("reasons", "reached")}
    return Event(**(row | lists | {DS: date.fromisoformat(row[DS])}))
