"""Parquet files that are written into a table's folder before the commit that makes them part of it.

Several processes write a file each; one of them commits them all (`Lake.commit_files`). Until then no reader of the
table sees them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from time import time_ns
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction

from features.checksums import Checksums
from features.schema import DS
from features.storage import OpenedFile, TableFiles, table_files

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.parquet")


class TableFile:
    """One Parquet file of a day, `<table>/ds=<ds>/<name>`; as a context manager it is there when the block ends, whole
    and on disk beside its SHA-256, or not at all.

    schema: without `ds`, which the folder's name says. options: of pyarrow's ParquetWriter. Pages carry checksums.
    Written under another name: in a folder, a killed writer leaves that behind, which `vacuum(full=True)` removes; for
    object storage it is a file of this machine until it is put.
    """

    def __init__(self, uri: str, ds: date, name: str, *, schema: pa.Schema, options: Mapping[str, Any]) -> None:
        self._path = _path(ds, name)
        self._files, self._checksums = table_files(uri), Checksums(uri)
        self._draft = self._files.draft(self._path)
        self._stream = _Hashed(self._draft.open("wb"))
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._stream, mode="w"), schema, **{"write_page_checksum": True, **options}
        )

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append `rows` as a row group of their own."""
        self._writer.write(rows, row_group_size=max(rows.num_rows, 1))

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._writer.is_open = False  # it would write the footer of a file that nobody wants
            self._stream.close()
            self._draft.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._writer.close()
        self._stream.close()
        self._checksums.put(self._path, self._stream.sha256)
        self._files.put_draft(self._draft, self._path)


class _Hashed(OpenedFile):
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return super().write(data)


def share_file(source: str, target: str, ds: date, name: str) -> None:
    """Give the table at `target` the file of the table at `source` and its checksum: a link where both are local, else
    a copy. A file of that name stays."""
    path, files = _path(ds, name), table_files(target)
    if files.find(path) is None:
        Checksums(target).put(path, Checksums(source).get(path))
        files.copy_from(table_files(source), path)


def is_written(uri: str, ds: date, name: str) -> bool:
    """Whether a `TableFile` of that name was finished."""
    return table_files(uri).find(_path(ds, name)) is not None


def file_schema(uri: str, ds: date, name: str) -> pa.Schema:
    """The columns of a file, without `ds`."""
    with table_files(uri).open(_path(ds, name)) as file:
        return pq.read_schema(file)


def file_metadata(uri: str, ds: date, name: str) -> pq.FileMetaData:
    """A file's footer: rows, row groups, statistics."""
    with table_files(uri).open(_path(ds, name)) as file:
        return pq.read_metadata(file)


def file_column(uri: str, ds: date, name: str, column: str) -> pa.ChunkedArray:
    """One column of a file."""
    with table_files(uri).open(_path(ds, name)) as file:
        return pq.read_table(file, columns=[column], use_threads=False).column(column)


def add_actions(uri: str, ds: date, names: Sequence[str], *, schema: pa.Schema) -> list[AddAction]:
    """What makes these files part of the table, with their statistics.

    ValueError for a file that is not there, has no checksum, or other columns than `schema` (without `ds`).
    """
    files, checksums = table_files(uri), Checksums(uri)
    with ThreadPoolExecutor(files.at_once) as pool:
        return list(pool.map(lambda name: _add_action(files, checksums, uri, ds, name, schema), names))


def replace_files(
    delta: DeltaTable, ds: date, added: Sequence[AddAction], properties: CommitProperties, *, schema: pa.Schema
) -> None:
    """One commit after which the day's files are `added`, with the columns of `schema`. CommitFailedError: the day was
    written since `delta` was opened. ValueError: a column of the table has another type.

    Not delta-rs's mode `overwrite`, which would add and remove a file that the day keeps in the same commit.
    """
    _gain_columns(delta, schema)
    present = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    before = {action["path"]: action["size_bytes"] for action in present if action[f"partition.{DS}"] == str(ds)}
    after = {action.path for action in added}
    removed = [
        RemoveAction(
            path=path, data_change=True, deletion_timestamp=time_ns() // 1_000_000, size=size,
            partition_values={DS: ds.isoformat()},
        )
        for path, size in before.items()
        if path not in after
    ]  # fmt: skip
    delta.create_write_transaction(
        [*(action for action in added if action.path not in before), *removed],
        mode="append",
        schema=delta.schema(),
        partition_by=[DS],
        commit_properties=properties,
    )


def _gain_columns(delta: DeltaTable, schema: pa.Schema) -> None:
    """Columns that the table has not yet, null in its earlier days."""
    known = {field.name: field.type for field in delta.schema().fields}
    given = Schema.from_arrow(schema).fields
    for field in given:
        if field.type != known.get(field.name, field.type):
            raise ValueError(
                f"{delta.table_uri}: column {field.name} is {known[field.name]} in the table and {field.type} in the "
                "day's files; give it another name"
            )
    if new := [field for field in given if field.name not in known]:
        delta.alter.add_columns(new)
        delta.update_incremental()


def _add_action(files: TableFiles, checksums: Checksums, uri: str, ds: date, name: str, schema: pa.Schema) -> AddAction:
    path = _path(ds, name)
    found = files.find(path)
    if found is None or not checksums.has(path):
        raise ValueError(f"{uri}/{path} was not written, or has no checksum; write it first (TableFile)")
    with files.open(path) as file:
        footer = pq.ParquetFile(file)
        if not footer.schema_arrow.equals(schema):
            raise ValueError(f"{uri}/{path} has the columns {footer.schema_arrow}, not {schema}; write it again")
        stats = _statistics(footer.metadata, schema)
    return AddAction(
        path=path,
        size=found.size,
        partition_values={DS: ds.isoformat()},
        modification_time=int(found.modified.timestamp() * 1000),
        data_change=True,
        stats=json.dumps(stats),
    )


def _statistics(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, Any]:
    """As Delta has them: rows, and the range and nulls of each integer column; readers count and prune by them."""
    found: dict[str, Any] = {"numRecords": metadata.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    for column in range(metadata.num_columns):
        name = metadata.schema.column(column).path
        chunks = [group.column(column).statistics for group in groups if group.num_rows]
        ranged = all(chunk is not None and chunk.has_min_max for chunk in chunks)
        if name in schema.names and pa.types.is_integer(schema.field(name).type) and chunks and ranged:
            found["minValues"][name] = min(chunk.min for chunk in chunks)
            found["maxValues"][name] = max(chunk.max for chunk in chunks)
            found["nullCount"][name] = sum(chunk.null_count for chunk in chunks)
    return found


def _path(ds: date, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} names no file of a table; use letters, digits and ._- and end it in .parquet")
    return f"{_folder(ds)}/{name}"


def _folder(ds: date) -> str:
    return f"{DS}={ds}"
