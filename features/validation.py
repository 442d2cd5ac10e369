"""What every source checks about a log: its columns as a whole, then every row.

A log that is not of the schema fails the day (ValueError); a row that breaks a rule is quarantined with the
first rule that it broke.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.arrow import REJECTED
from features.schema import EVENT_TIME, USER_ID, Schema

Mask = npt.NDArray[np.bool_]


def day_bounds(ds: date, day_starts_at: timedelta) -> tuple[datetime, datetime]:
    """The day as [first instant, first instant of the next day), UTC."""
    start = datetime(ds.year, ds.month, ds.day, tzinfo=UTC) + day_starts_at
    return start, start + timedelta(days=1)


def require_names(found: Sequence[str], expected: Sequence[str], *, file: Path) -> None:
    """ValueError that names the columns that are missing, unexpected (so: renamed) or given twice."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    twice = sorted({name for name in found if list(found).count(name) > 1})
    problems = [
        f"{what} {names}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("given twice", twice))
        if names
    ]
    if problems:
        raise ValueError(
            f"{file}: columns are {'; '.join(problems)}; expected exactly {', '.join(expected)}. "
            "Land the log again with these columns, or change the source's schema"
        )


def require_layout(found: pa.Schema, expected: pa.Schema, *, file: Path) -> None:
    """`require_names`, and ValueError that names columns of another type. Order and nullability are free."""
    require_names(found.names, expected.names, file=file)
    retyped = [
        f"{field.name} is {found.field(field.name).type}, expected {field.type}"
        for field in expected
        if found.field(field.name).type != field.type
    ]
    if retyped:
        raise ValueError(
            f"{file}: columns are retyped: {'; '.join(retyped)}. "
            "Land the log again with these types, or change the source's schema"
        )


@dataclass
class Faults:
    """The first broken rule of every row; "" where none is."""

    reasons: npt.NDArray[np.object_]
    bad: Mask

    @classmethod
    def none(cls, num_rows: int) -> Faults:
        """No row is at fault yet."""
        return cls(reasons=np.full(num_rows, "", dtype=object), bad=np.zeros(num_rows, bool))

    def mark(self, broken: Mask, reason: str) -> None:
        """Rows `broken` that broke no rule before broke `reason`."""
        first = broken & ~self.bad
        if first.any():
            self.reasons[first] = reason
            self.bad |= first


def faults(log: pa.Table, schema: Schema, *, key: str, bounds: tuple[datetime, datetime]) -> Faults:
    """Checks a log in the layout of `features.arrow.examples_schema`, with a `key` column, against `schema`:
    nulls, negative ids, events outside the day, values that are not finite, labels other than 0 and 1, and
    rows whose key came before."""
    found = Faults.none(log.num_rows)
    for name in (key, USER_ID):
        _ids(found, name, log[name].combine_chunks())
    _times(found, log[EVENT_TIME].combine_chunks(), bounds)
    for sparse in schema.sparse:
        _lists(found, sparse.name, log[sparse.name].combine_chunks())
    for dense in schema.dense:
        values = log[dense.name].combine_chunks()
        _nulls(found, dense.name, values)
        found.mark(~np.isfinite(values.fill_null(0).to_numpy(zero_copy_only=False)), f"not_finite:{dense.name}")
    for task in schema.tasks:
        labels = log[task].combine_chunks()
        _nulls(found, task, labels)
        known = labels.fill_null(0).to_numpy(zero_copy_only=False)
        found.mark((known != 0) & (known != 1), f"label_not_0_or_1:{task}")
    found.mark(repeated(log[key].combine_chunks().fill_null(-1).to_numpy(), among=~found.bad), "duplicate")
    return found


def repeated(keys: npt.NDArray[np.int64], *, among: Mask) -> Mask:
    """Rows of `among` whose key an earlier row of `among` has."""
    places = np.flatnonzero(among)
    _, first = np.unique(keys[places], return_index=True)
    again = np.zeros(len(keys), bool)
    again[places] = True
    again[places[first]] = False
    return again


def _nulls(found: Faults, name: str, values: pa.Array) -> None:
    if values.null_count:
        found.mark(values.is_null().to_numpy(zero_copy_only=False), f"null:{name}")


def _ids(found: Faults, name: str, values: pa.Array) -> None:
    _nulls(found, name, values)
    found.mark(values.fill_null(0).to_numpy() < 0, f"negative:{name}")


def _times(found: Faults, values: pa.Array, bounds: tuple[datetime, datetime]) -> None:
    _nulls(found, EVENT_TIME, values)
    start, end = (pa.scalar(bound, values.type) for bound in bounds)
    outside = pc.or_(pc.less(values, start), pc.greater_equal(values, end)).fill_null(False)
    found.mark(outside.to_numpy(zero_copy_only=False), "wrong_day")


def _lists(found: Faults, name: str, lists: pa.ListArray) -> None:
    _nulls(found, name, lists)
    flat = lists.flatten()
    if flat.null_count == 0 and (len(flat) == 0 or pc.min(flat).as_py() >= 0):
        return
    owners = pc.list_parent_indices(lists).to_numpy()
    for broken, reason in ((flat.is_null(), "null"), (pc.less(flat, 0).fill_null(False), "negative")):
        rows = np.zeros(len(lists), bool)
        rows[owners[broken.to_numpy(zero_copy_only=False)]] = True
        found.mark(rows, f"{reason}:{name}")


def quarantine(log: pa.Table, found: Faults, *, file: Path) -> tuple[pa.Table, pa.Table]:
    """The accepted rows, and the others as `features.arrow.REJECTED` with the row as JSON."""
    accepted = log.filter(pa.array(~found.bad))
    rejected = log.filter(pa.array(found.bad))
    assert accepted.num_rows + rejected.num_rows == log.num_rows
    return accepted, pa.table(
        {
            "file": [file.name] * rejected.num_rows,
            "line": np.flatnonzero(found.bad) + 1,
            "reason": found.reasons[found.bad].tolist(),
            "raw": [json.dumps(row, default=str) for row in rejected.to_pylist()],
        },
        schema=REJECTED,
    )
