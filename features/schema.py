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

SIDES: tuple[Side, Side] = ("user", "item")
PACKED_FROM = 128
"""A side of so many features is stored packed: see `features.packing` and tests/benchmarks/README.md."""


def packed_columns(side: Side) -> tuple[str, str, str]:
    """Columns of a packed side: the ids of its lists, the lengths of its lists, its dense values."""
    return f"{side}_packed_ids", f"{side}_packed_lengths", f"{side}_packed_dense"


RESERVED = (USER_ID, EVENT_TIME, DS, *packed_columns("user"), *packed_columns("item"))


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
        if comma := [name for name in names if "," in name]:
            raise ValueError(f"columns {comma} have a comma in their names; a packed column lists its features by it")
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

    def is_packed(self, side: Side) -> bool:
        """Whether the lake stores the side's features packed, in place of a column each."""
        return len(self.sparse_of(side)) + len(self.dense_of(side)) >= PACKED_FROM

    def table(self, name: str) -> Table:
        """The table called `name`."""
        return next(t for t in self.tables if t.name == name)
