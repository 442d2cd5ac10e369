"""The shift's rows as tables, whatever rows there are: what moved, and whose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshots.judgement.usual import Usual
from snapshots.judgement.values import Key, shift_values
from snapshots.report.usual import FAR, spreads
from snapshots.shift.distribution import QUANTILES
from snapshots.shift.rows import EVERYONE, NOT_POOLED, PREDECESSOR, ShiftRow

if TYPE_CHECKING:
    from snapshots.report.findings import Findings

INPUTS = "inputs"
KINDS = {
    "same_inputs": "the model alone",
    "consecutive_days": "as consumers see it",
    "populations": "all users of both days",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value beside what is usual. None: not measured."""

    value: float | None = None
    usual: float | None = None
    spreads: float = 0.0
    """From the usual."""
    far: bool = False
    """Further than a day should be, or the gate asks about it."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One statistic of one comparison, a value per embedding beside what is usual."""

    kind: str
    pooling: str
    metric: str
    cells: tuple[Cell, ...]
    """In the order of `embeddings_of`."""
    num_users: int

    @property
    def compared(self) -> str:
        """In words."""
        return kind_of(self.kind, self.pooling)


def kind_of(kind: str, pooling: str) -> str:
    """`as consumers see it, pooled over 3`."""
    pooled = "" if pooling == NOT_POOLED else f", pooled over {pooling}"
    computed = ", as computed" if kind == "consecutive_days" and not pooled else ""
    return f"{KINDS.get(kind, kind)}{pooled}{computed}"


def measured(rows: Iterable[ShiftRow]) -> list[ShiftRow]:
    """The rows that say how far embeddings moved."""
    return [row for row in rows if row.metric != PREDECESSOR and row.kind != INPUTS]


_FURTHEST_SHOWN = 6
_MIN_DAYS = 3
"""Fewer than the gate's: what is pointed at is looked at by a person who came anyway."""
_HEADLINES = ("cosine_mean", "norm_change_mean", "knn_overlap")
"""Shown whatever they are; other metrics where they are far from the usual, or the gate asks about them."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the day's numbers are seen against."""

    usual: Mapping[str, Usual]
    """By the row's name."""
    asked: frozenset[Key] = frozenset()
    """What the gate asked about."""
    min_days: int

    @classmethod
    def of(cls, findings: Findings) -> Context:
        """Of the day that was judged."""
        asked = (check.of.key for check in findings.decision.checks if check.verdict != "promote")
        return cls(usual=findings.usual(), asked=frozenset(asked), min_days=_MIN_DAYS)

    def cell(self, row: ShiftRow | None) -> Cell:
        """The row's value in a table."""
        if row is None:
            return Cell()
        known = self.usual.get(row.name)
        apart = spreads(row.value, known, min_days=self.min_days)
        asked = any(value.key in self.asked for value in shift_values([row]))
        usual = None if known is None else known.median
        return Cell(value=row.value, usual=usual, spreads=apart, far=asked or apart > FAR)


def is_quantile(metric: str) -> bool:
    """Whether it is one of the quantiles that go with a mean."""
    return metric.rpartition("_")[2] in QUANTILES


def embeddings_of(rows: Iterable[ShiftRow]) -> list[int | None]:
    """The columns: each embedding, and None for what is of all of them together."""
    found = {row.embedding for row in rows}
    return [*sorted(k for k in found if k is not None), *([None] if None in found else [])]


def embedding_name(embedding: int | None) -> str:
    """A column's heading."""
    return "together" if embedding is None else f"embedding {embedding}"


def moved_table(rows: Sequence[ShiftRow], context: Context, *, everything: bool) -> list[Moved]:
    """Everyone's movement, one entry per (comparison, pooling, metric), pooled first: what the gate judges.

    everything: else headlines, and what is furthest from the usual.
    """
    of_everyone = [row for row in measured(rows) if row.users == EVERYONE]
    columns = embeddings_of(of_everyone)
    groups: dict[tuple[str, str, str], dict[int | None, ShiftRow]] = {}
    for row in of_everyone:
        groups.setdefault((row.kind, row.pooling, row.metric), {})[row.embedding] = row
    found = [
        Moved(
            kind=kind,
            pooling=pooling,
            metric=metric,
            cells=tuple(context.cell(group.get(k)) for k in columns),
            num_users=max(row.num_users for row in group.values()),
        )
        for (kind, pooling, metric), group in groups.items()
    ]
    others = [of for of in found if of.metric not in _HEADLINES and not is_quantile(of.metric)]
    others = [of for of in others if any(cell.far for cell in of.cells)]
    furthest = sorted(others, key=lambda of: -max(cell.spreads for cell in of.cells))[:_FURTHEST_SHOWN]
    shown = found if everything else [of for of in found if of.metric in _HEADLINES or of in furthest]
    return sorted(shown, key=lambda moved: (moved.kind, moved.pooling == NOT_POOLED))


@dataclass(frozen=True, kw_only=True)
class Input:
    """A number of what went in."""

    feature: str
    """Empty: of the day as a whole."""
    metric: str
    cell: Cell


def input_table(rows: Iterable[ShiftRow], context: Context) -> list[Input]:
    """What went in, those furthest from the usual first; of the day as a whole before its features."""
    found = [
        Input(
            feature=row.feature,
            metric=row.metric,
            cell=context.cell(row),
        )
        for row in rows
        if row.kind == INPUTS and row.metric != PREDECESSOR
    ]
    return sorted(found, key=lambda of: (bool(of.feature), -of.cell.spreads))


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of the users, and how far they moved."""

    users: str
    num_users: int
    values: tuple[float | None, ...]
    """In the order of the table's headings."""


def slice_table(rows: Sequence[ShiftRow]) -> tuple[list[tuple[str, int | None]], list[Slice]]:
    """([(metric, embedding)], everyone and then each slice, those that moved most by the first column first).

    Of what consumers see where it was measured by slice, else of the model alone; quantiles are left out.
    """
    sliced = [row for row in measured(rows) if row.users != EVERYONE and not is_quantile(row.metric)]
    if not sliced:
        return [], []
    kind, pooling = max(
        {(r.kind, r.pooling) for r in sliced}, key=lambda of: (of[0] == "consecutive_days", of[1] != NOT_POOLED)
    )
    columns = list(dict.fromkeys((r.metric, r.embedding) for r in sliced if (r.kind, r.pooling) == (kind, pooling)))
    values: dict[str, dict[tuple[str, int | None], ShiftRow]] = {}
    for row in measured(rows):
        if (row.kind, row.pooling) == (kind, pooling) and (row.metric, row.embedding) in columns:
            values.setdefault(row.users, {})[row.metric, row.embedding] = row
    found = [
        Slice(
            users=users,
            num_users=max(row.num_users for row in of.values()),
            values=tuple(of[column].value if column in of else None for column in columns),
        )
        for users, of in values.items()
    ]
    everyone = [of for of in found if of.users == EVERYONE]
    base = everyone[0].values[0] if everyone else None

    def apart(of: Slice) -> float:
        value = of.values[0]
        return 0.0 if value is None or math.isnan(value) else abs(value - (base or 0.0))

    others = sorted((of for of in found if of.users != EVERYONE), key=apart, reverse=True)
    return columns, [*everyone, *others]
