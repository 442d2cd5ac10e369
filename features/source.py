"""What a source of examples gives the pipeline. The configs are light; `open` imports what reads the logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from features.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Landed:
    """The log of one day, read and validated.

    accepted: the valid rows, in event-time order, in the source's own log columns.
    rejected: columns `file` string, `line` int64 (1-based), `reason` string, `raw` string (undecodable
        bytes shown as backslash escapes).
    """

    accepted: pa.Table
    rejected: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows in the landed log: accepted + rejected, always."""
        return int(self.accepted.num_rows + self.rejected.num_rows)


class LogReader(Protocol):
    """Turns one day's log and the user state of the day before into examples. Pure in (log, state)."""

    @property
    def state_days(self) -> int:
        """How many days before ds the user state is looked for; 0: the reader needs none."""

    def log_files(self, ds: date) -> list[Path]:
        """The files of the day's landed log and what they are joined with; FileNotFoundError names the missing."""

    def read(self, ds: date) -> Landed:
        """Read and validate the day's log. ValueError for a log that is not of the schema (a column is
        missing, renamed or retyped) or empty: the day must not go on."""

    def examples(self, accepted: pa.Table, state: pa.Table | None) -> Iterator[pa.RecordBatch]:
        """Examples in the layout of `features.arrow.examples_schema`, event-time order. `state`: the newest
        user_features row of every user seen before the day, None before the first day."""

    def user_features(self, accepted: pa.Table, state: pa.Table | None) -> pa.Table:
        """One row per active user as of the end of the day (layout `features.arrow.user_features_schema`)."""


class Source(Protocol):
    """A source's frozen config."""

    @property
    def name(self) -> str:
        """Names the lake's tables: `examples/<name>` and so on."""

    @property
    def schema(self) -> Schema:
        """What its examples are made of."""

    @property
    def day_starts_at(self) -> timedelta:
        """Where a day begins, relative to midnight UTC (the portal's UTC-3 day: +3 hours)."""

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        """A reader of the logs, generated ones under `landing`, real ones under `data_dir`."""
