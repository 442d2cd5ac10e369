"""The rows of `shift/<model>`: what was measured about a day; the gate judges them, and may do so again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from features.lake import Lake, Partition

Kind = Literal["same_inputs", "consecutive_days", "populations", "inputs"]

NOT_POOLED = "none"
EVERYONE = "all"
PREDECESSOR = "predecessor"

ROWS = pa.schema(
    [
        ("version", pa.int32()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("embedding", pa.int8()),
        ("pooling", pa.string()),
        ("users", pa.string()),
        ("feature", pa.string()),
        ("value", pa.float64()),
        ("error", pa.float64()),
        ("num_users", pa.int64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number, as a metric gives it. NaN with a note: it could not be measured."""

    value: float
    error: float | None = None
    """Standard error of a value that was sampled; None: exact."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ShiftRow:
    """One number."""

    version: int
    kind: Kind
    metric: str
    """PREDECESSOR (is there a version to compare with: 1 or 0; no embedding), or a metric (infra/decisions/015)."""
    embedding: int | None
    pooling: str
    """NOT_POOLED, or how many versions are averaged."""
    users: str = EVERYONE
    """The slice: whose movement it is."""
    feature: str = ""
    """The user-side feature that it is about; empty: none."""
    value: float
    error: float | None = None
    """Standard error of a value that was sampled; None: exact."""
    num_users: int
    note: str = ""
    """Why it could not be measured (then `value` is NaN, or 0 of PREDECESSOR's users); or which dimension or embedding
    the value is of."""

    @property
    def name(self) -> str:
        """As a metric: `shift consecutive_days/cosine_mean 0 pooling 3`, and whose, when it is a slice."""
        name = f"shift {self.kind}/{self.metric}"
        if self.embedding is not None:
            name += f" {self.embedding} pooling {self.pooling}"
        if self.feature:
            name += f" {self.feature}"
        return name if self.users == EVERYONE else f"{name} {self.users}"


def table_of(model: str) -> str:
    """The lake's table of the model's shift."""
    return f"shift/{model}"


def read_rows(lake: Lake, partition: Partition) -> tuple[ShiftRow, ...]:
    """The partition's rows, as they were written. A column that was added since has its default."""
    dataset = lake.dataset(partition)
    written = [name for name in ROWS.names if name in dataset.schema.names]
    return tuple(ShiftRow(**_known(row)) for row in dataset.to_table(columns=written).to_pylist())


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None or name == "embedding"}


def predecessor(number: int, kind: Kind, *, found: bool, num_users: int, note: str = "") -> ShiftRow:
    """Whether there was something to compare version `number` with; note: why it could not be, though there was."""
    return ShiftRow(
        version=number,
        kind=kind,
        metric=PREDECESSOR,
        embedding=None,
        pooling=NOT_POOLED,
        value=float(found),
        num_users=num_users,
        note=note,
    )


def rows_of(
    found: Iterable[tuple[str, Measured]],
    *,
    version: int,
    kind: Kind,
    embedding: int,
    pooling: str,
    num_users: int,
    users: str = EVERYONE,
) -> Iterator[ShiftRow]:
    """A row per (metric, number)."""
    for metric, measured in found:
        yield ShiftRow(
            version=version,
            kind=kind,
            metric=metric,
            embedding=embedding,
            pooling=pooling,
            users=users,
            value=measured.value,
            error=measured.error,
            num_users=num_users,
            note=measured.note,
        )
