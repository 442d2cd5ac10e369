"""The lake: Delta tables partitioned by day, each partition committed whole, once per content.

A partition is addressed by the fingerprint of what it was made from. The fingerprint is stored with the
commit as a Delta application transaction (`<table>/ds=<ds>`), so "is this day already built?" is answered
by the table's own log, atomically with the data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from features.schema import DS

log = logging.getLogger(__name__)

ROWS_PER_GROUP = 65_536
GROUP_BYTES = 128 * 2**20
"""A row group holds at most about this much as Arrow columns: it is what a reader decodes at a time."""
_FINGERPRINT_DIGITS = 15  # 60 bits: a Delta transaction version is a signed 64-bit integer
_COMMIT_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One day of one table: `version` is a table version in which it can be read for ever."""

    table: str
    ds: date
    version: int
    fingerprint: str


class MissingPartitionError(ValueError):
    """The day is not in the table."""


class Lake:
    """The Delta tables under one root, a local path or an object-store URI."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")

    def uri(self, table: str) -> str:
        """Where `table` (for example `examples/globo`) lives."""
        return f"{self.root}/{table}"

    def open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        """The Delta table, at `version` or the newest; None before its first commit."""
        try:
            return DeltaTable(self.uri(table), version=version)
        except TableNotFoundError:
            return None

    def find(self, table: str, ds: date) -> Partition | None:
        """The day's partition as it stands now, or None."""
        delta = self.open(table)
        return None if delta is None else _partition_of(delta, table, ds)

    def get(self, table: str, ds: date) -> Partition:
        """The day's partition; MissingPartitionError names table and day."""
        partition = self.find(table, ds)
        if partition is None:
            raise MissingPartitionError(
                f"{table} has no partition ds={ds} under {self.root}; run the step that writes it for {ds} first"
            )
        return partition

    def find_all(self, table: str, days: Iterable[date]) -> dict[date, Partition]:
        """The partitions of those of `days` that are in the table now."""
        if (delta := self.open(table)) is None:
            return {}
        found = {ds: _partition_of(delta, table, ds) for ds in days}
        return {ds: partition for ds, partition in found.items() if partition is not None}

    def days(self, table: str) -> list[date]:
        """The days committed to the table, oldest first (a day without rows has left no file and is not listed)."""
        delta = self.open(table)
        if delta is None:
            return []
        return sorted({date.fromisoformat(p[DS]) for p in delta.partitions() if p.get(DS)})

    def commit(
        self,
        table: str,
        ds: date,
        data: pa.Table | pa.RecordBatchReader,
        *,
        fingerprint: str,
        metadata: Mapping[str, Any] | None = None,
        writer: WriterProperties | None = None,
    ) -> Partition:
        """Write the day's partition in one commit; a partition with this fingerprint is left as it is.

        `data` has no `ds` column. Readers see the old partition until the commit and the new one after it;
        of two writers of the same content one wins and the other finds its work done.
        """
        key = fingerprint[:_FINGERPRINT_DIGITS]
        if found := self._committed(table, ds, key):
            return found
        self._create(table, data.schema)
        rows = _with_ds(data, ds)
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            try:
                self._overwrite(table, ds, rows, key=key, metadata=metadata or {}, writer=writer)
                break
            except CommitFailedError:
                if found := self._committed(table, ds, key):
                    return found
                if attempt == _COMMIT_ATTEMPTS:
                    raise
                log.warning("lake commit lost a race, trying again table=%s ds=%s attempt=%d", table, ds, attempt)
        partition = self.get(table, ds)
        log.info("lake committed table=%s ds=%s version=%d fingerprint=%s", table, ds, partition.version, key)
        return partition

    def _committed(self, table: str, ds: date, key: str) -> Partition | None:
        """The day's partition if it is of this fingerprint."""
        found = self.find(table, ds)
        if found is None or found.fingerprint != key:
            return None
        log.info("lake unchanged table=%s ds=%s version=%d fingerprint=%s", table, ds, found.version, key)
        return found

    def _overwrite(
        self,
        table: str,
        ds: date,
        rows: pa.Table,
        *,
        key: str,
        metadata: Mapping[str, Any],
        writer: WriterProperties | None,
    ) -> None:
        """One commit that replaces the day's rows and records the fingerprint. CommitFailedError: a race was lost."""
        write_deltalake(
            self.uri(table),
            rows,
            mode="overwrite",
            schema_mode="merge" if self._gains_or_lacks_columns(table, rows.schema) else None,
            predicate=f"{DS} = '{ds}'",
            commit_properties=CommitProperties(
                custom_metadata={"usermodel.ds": ds.isoformat(), "usermodel.fingerprint": key}
                | {f"usermodel.{name}": str(value) for name, value in metadata.items()},
                app_transactions=[Transaction(_application(table, ds), int(key, 16))],
                max_commit_retries=_COMMIT_ATTEMPTS,
            ),
            writer_properties=writer or WriterProperties(compression="LZ4", max_row_group_size=_rows_per_group(rows)),
        )

    def _gains_or_lacks_columns(self, table: str, schema: pa.Schema) -> bool:
        """Whether the day's columns are not the table's: a feature came or went. Earlier days read null in a new
        column, this day in one that it lacks; a column of another type is still refused."""
        found = self.open(table)
        return found is not None and {field.name for field in found.schema().fields} != set(schema.names)

    def _create(self, table: str, schema: pa.Schema) -> None:
        """Make the table without rows, so that every writer commits by predicate: of two that would make it
        with their rows, both would be kept."""
        if (found := self.open(table)) is not None:
            _require_same_metadata(table, found, schema)
            return
        try:
            DeltaTable.create(self.uri(table), schema=_ds_schema(schema), partition_by=[DS])
        except DeltaError:
            if self.open(table) is None:
                raise
            log.info("lake found table=%s made by another writer", table)

    def dataset(self, partition: Partition) -> pads.Dataset:
        """The partition at its version, as an Arrow dataset (lazy: project and filter before reading)."""
        uri = self.uri(partition.table)
        return DeltaTable(uri, version=partition.version).to_pyarrow_dataset(
            filesystem=_native_filesystem(uri), file_pruning_predicate=[(DS, "=", partition.ds.isoformat())]
        )

    def read(self, partition: Partition, *, columns: list[str] | None = None) -> pa.Table:
        """The partition at its version, in memory, without the `ds` column unless asked for."""
        dataset = self.dataset(partition)
        wanted = columns if columns is not None else [name for name in dataset.schema.names if name != DS]
        return dataset.to_table(columns=wanted)

    def files(self, partition: Partition) -> list[str]:
        """URIs of the partition's Parquet files, sorted."""
        delta = DeltaTable(self.uri(partition.table), version=partition.version)
        return sorted(delta.file_uris(file_pruning_predicate=[(DS, "=", partition.ds.isoformat())]))


def _native_filesystem(uri: str) -> pafs.FileSystem | None:
    """Arrow's own for a local table; None: delta-rs's, which is written in Python. Arrow's threads let go of files
    after the last row is delivered; one that needs the interpreter for that while it exits aborts the process."""
    return None if "://" in uri else pafs.SubTreeFileSystem(str(Path(uri).absolute()), pafs.LocalFileSystem())


def fragments_of(dataset: pads.Dataset) -> list[pads.Fragment]:
    """The dataset's files in the order of their paths: the same on every rank and every time."""
    return sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path))


def _application(table: str, ds: date) -> str:
    return f"{table}/ds={ds}"


def _partition_of(delta: DeltaTable, table: str, ds: date) -> Partition | None:
    committed = delta.transaction_version(_application(table, ds))
    if committed is None:
        return None
    return Partition(table=table, ds=ds, version=delta.version(), fingerprint=f"{committed:0{_FINGERPRINT_DIGITS}x}")


def _ds_schema(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field(DS, pa.string()))


def _require_same_metadata(table: str, found: DeltaTable, schema: pa.Schema) -> None:
    """A column's metadata says what it holds, for every day of the table; a commit would not change it."""
    for field in found.schema().fields:
        new = schema.field(field.name).metadata or {} if field.name in schema.names else {}
        if field.name in schema.names and {k.decode(): v.decode() for k, v in new.items()} != field.metadata:
            raise ValueError(
                f"{table}: column {field.name} was made for other features ({field.metadata}) than this day's ({new}); "
                "give the changed source a name of its own"
            )


def _rows_per_group(rows: pa.Table) -> int:
    """A power of two, so that windows of whole batches end where groups end."""
    fitting = GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1)
    return max(min(ROWS_PER_GROUP, 2 ** max(fitting.bit_length() - 1, 0)), 1) if rows.num_rows else ROWS_PER_GROUP


def _with_ds(data: pa.Table | pa.RecordBatchReader, ds: date) -> pa.Table:
    """The day with its `ds` column, as a single batch: delta-rs deals batches out to parallel writers, and only
    a single one keeps its rows in order. So a day is held in memory once (about 1 GB per million examples)."""
    table = data if isinstance(data, pa.Table) else data.read_all()
    column = pa.repeat(pa.scalar(ds.isoformat()), table.num_rows)
    return table.append_column(pa.field(DS, pa.string()), column).combine_chunks()
