"""How a day's rows lie in a table: the `ds` column, row groups, and which columns a day may bring."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
from deltalake import DeltaTable

from features.schema import DS

ROWS_PER_GROUP = 65_536
GROUP_BYTES = 128 * 2**20
"""A row group holds at most about this much as Arrow columns: it is what a reader decodes at a time."""


def gains_or_lacks_columns(delta: DeltaTable, schema: pa.Schema) -> bool:
    """Whether the day's columns are not the table's: a feature came or went. Earlier days read null in a new
    column, this day in one that it lacks; a column of another type is still refused."""
    return {field.name for field in delta.schema().fields} != set(schema.names)


def ds_schema(schema: pa.Schema) -> pa.Schema:
    """The table's, of days with `schema`."""
    return schema.append(pa.field(DS, pa.string()))


def require_same_metadata(table: str, found: DeltaTable, schema: pa.Schema) -> None:
    """A column's metadata says what it holds, for every day of the table; a commit would not change it."""
    for field in found.schema().fields:
        new = schema.field(field.name).metadata or {} if field.name in schema.names else {}
        if field.name in schema.names and {k.decode(): v.decode() for k, v in new.items()} != field.metadata:
            raise ValueError(
                f"{table}: column {field.name} was made for other features ({field.metadata}) than this day's ({new}); "
                "give the changed source a name of its own"
            )


def rows_per_group(rows: pa.Table) -> int:
    """A power of two, so that windows of whole batches end where groups end."""
    fitting = GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1)
    return max(min(ROWS_PER_GROUP, 2 ** max(fitting.bit_length() - 1, 0)), 1) if rows.num_rows else ROWS_PER_GROUP


def with_ds(data: pa.Table | pa.RecordBatchReader, ds: date) -> pa.Table:
    """The day with its `ds` column, as a single batch: delta-rs deals batches out to parallel writers, and only
    a single one keeps its rows in order. So a day is held in memory once (about 1 GB per million examples)."""
    table = data if isinstance(data, pa.Table) else data.read_all()
    column = pa.repeat(pa.scalar(ds.isoformat()), table.num_rows)
    return table.append_column(pa.field(DS, pa.string()), column).combine_chunks()
