"""Tables that are appended to, row by row: no day of theirs is replaced."""

from __future__ import annotations

import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from features.lake import Lake
from features.schema import DS
from features.storage_errors import named_errors
from features.tables import Tables

_ATTEMPTS = 5


def append(lake: Lake, table: str, rows: pa.Table) -> None:
    """Add rows, which have the column `ds`, in a commit of their own, whatever else is written meanwhile. Where object
    storage did it and its answer was lost, they are added twice."""
    uri, tables = lake.uri(table), Tables(lake.root)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with named_errors(uri):
                write_deltalake(
                    uri, rows, mode="append", partition_by=[DS], configuration=tables.configuration(),
                    storage_options=tables.options(),
                )  # fmt: skip
            return
        except DeltaError as error:
            # of two writers that make the table one is late; an append never contradicts another
            if attempt == _ATTEMPTS or not (isinstance(error, CommitFailedError) or "already exists" in str(error)):
                raise


def read_all(lake: Lake, table: str) -> pa.Table | None:
    """The newest version of the table, every column; None before its first commit."""
    tables = Tables(lake.root)
    if (delta := tables.open(table)) is None:
        return None
    names = tables.names(delta, [])
    places = dict(zip(names, tables.files(table).local(names), strict=True))
    return tables.dataset(delta, table, places, []).to_table()
