"""What one example of a source is made of. Light to import: DAG files read recipes, which hold schemas."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Side = Literal["user", "item"]
Transform = Literal["identity", "log1p"]

USER_ID = "user_id"
EVENT_TIME = "event_time"
DS = "ds"
RESERVED = (USER_ID, EVENT_TIME, DS)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding table. An id lands in row `hash(id) mod num_rows`."""

    name: str
    num_rows: int

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"table {self.name}: num_rows is {self.num_rows}; a table has at least one row")


@dataclass(frozen=True, kw_only=True)
class SparseFeature:
    """A list of non-negative int64 ids per row, looked up in `table` (features may share one)."""

    name: str
    table: str
    side: Side = "user"


@dataclass(frozen=True, kw_only=True)
class DenseFeature:
    """One finite float32 per row. The lake keeps raw values; `transform` is applied when a batch is made."""

    name: str
    side: Side = "user"
    transform: Transform = "identity"


@dataclass(frozen=True, kw_only=True)
class Schema:
    """User id, event time, features of both sides, and one 0/1 label column per task."""

    tables: tuple[Table, ...]
    sparse: tuple[SparseFeature, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [*(f.name for f in self.sparse), *(f.name for f in self.dense), *self.tasks, *RESERVED]
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise ValueError(f"columns {twice} are declared twice; every feature and task needs its own name")
        tables = [table.name for table in self.tables]
        if len(set(tables)) < len(tables):
            raise ValueError(f"tables {tables} are not distinct")
        for feature in self.sparse:
            if feature.table not in tables:
                raise ValueError(f"feature {feature.name} names table {feature.table!r}; known: {tables}")
        if not self.tasks:
            raise ValueError("a schema needs at least one task (a 0/1 label column)")

    def sparse_of(self, side: Side) -> tuple[SparseFeature, ...]:
        """The sparse features of one side, in schema order."""
        return tuple(f for f in self.sparse if f.side == side)

    def dense_of(self, side: Side) -> tuple[DenseFeature, ...]:
        """The dense features of one side, in schema order."""
        return tuple(f for f in self.dense if f.side == side)

    def table(self, name: str) -> Table:
        """The table called `name`."""
        return next(t for t in self.tables if t.name == name)
