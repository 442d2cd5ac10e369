"""What one example of a source is made of. Light to import: DAG files read recipes, which hold schemas."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from features.fingerprint import ADDED_LATER

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
class Hashed:
    """An id lands in row `hash(id) mod num_rows`, for ever, beside whatever else lands there."""

    kind: Literal["hashed"] = "hashed"


HASHED = Hashed()


@dataclass(frozen=True, kw_only=True)
class Managed:
    """An id that is seen often enough has a row of its own while it lives; `features.id_map` decides once a day.

    Ids without a row of their own share the table's last `overflow_rows` rows, by hash.
    """

    admit_after: int = 1
    """An id may have a row once it occurred so often: on the days before, decayed as below, and once today."""
    evict_after_days: int = 30
    """An id unseen for more days than this loses its row."""
    half_life_days: float = 7.0
    """When rows are short, those unseen for longest go first, of them those that occurred least: an occurrence counts
    half after so many days."""
    overflow_rows: int = 1
    kind: Literal["managed"] = "managed"

    def __post_init__(self) -> None:
        for name in ("admit_after", "evict_after_days", "overflow_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of managed ids is {getattr(self, name)}; it is at least 1")
        if not self.half_life_days > 0:
            raise ValueError(f"half_life_days of managed ids is {self.half_life_days}; it is positive")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding table; `ids` says how an id finds its row."""

    name: str
    num_rows: int
    ids: Hashed | Managed = field(default=HASHED, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"table {self.name}: num_rows is {self.num_rows}; a table has at least one row")
        if isinstance(self.ids, Managed) and self.ids.overflow_rows >= self.num_rows:
            raise ValueError(
                f"table {self.name}: {self.ids.overflow_rows} overflow rows of {self.num_rows} leave none to ids of "
                "their own; give the table more rows, or fewer to the overflow"
            )

    def keeps_rows_of(self, before: Table) -> bool:
        """Whether a managed table's map may go on from that of `before`."""
        managed = isinstance(self.ids, Managed) and isinstance(before.ids, Managed)
        return managed and _owned(self) == _owned(before)


def _owned(table: Table) -> tuple[int, int]:
    """(rows, rows that can have an owner)."""
    return table.num_rows, table.num_rows - (table.ids.overflow_rows if isinstance(table.ids, Managed) else 0)


@dataclass(frozen=True, kw_only=True)
class SparseFeature:
    """A list of non-negative int64 ids per row, looked up in `table` (features may share one)."""

    name: str
    table: str
    side: Side = "user"
    optional: bool = field(default=False, metadata=ADDED_LATER)
    """A day that was built before the feature was is learnt from with empty lists; else it is an error."""


@dataclass(frozen=True, kw_only=True)
class DenseFeature:
    """One finite float32 per row. The lake keeps raw values; `transform` is applied when a batch is made."""

    name: str
    side: Side = "user"
    transform: Transform = "identity"
    optional: bool = field(default=False, metadata=ADDED_LATER)
    """A day that was built before the feature was is learnt from with zeros; else it is an error."""


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

    def with_tables(self, tables: tuple[Table, ...]) -> Schema:
        """The schema with `tables` in place of those of the same names. ValueError for a name that it has not."""
        known, given = [table.name for table in self.tables], {table.name: table for table in tables}
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"tables {unknown} are none of the schema's: {known}")
        return replace(self, tables=tuple(given.get(table.name, table) for table in self.tables)) if given else self

    @property
    def managed(self) -> tuple[Table, ...]:
        """The tables whose ids are managed."""
        return tuple(table for table in self.tables if isinstance(table.ids, Managed))

    def table(self, name: str) -> Table:
        """The table called `name`."""
        return next(t for t in self.tables if t.name == name)
