"""The lake: Delta tables partitioned by day, each partition committed whole, once per content.

A partition is addressed by the fingerprint of what it was made from. The fingerprint is stored with the
commit as a Delta application transaction (`<table>/ds=<ds>`), so "is this day already built?" is answered
by the table's own log, atomically with the data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from features.checksums import Checksums
from features.layout import ds_schema, gains_or_lacks_columns, require_same_metadata, rows_per_group, with_ds
from features.schema import DS
from features.storage_errors import named_errors
from features.table_files import add_actions, file_schema, replace_files, share_file
from features.tables import DamagedTableError, Tables, of_day

log = logging.getLogger(__name__)

_FINGERPRINT_DIGITS = 15  # 60 bits: a Delta transaction version is a signed 64-bit integer
_COMMIT_ATTEMPTS = 5
__all__ = ["DamagedTableError", "Lake", "MissingPartitionError", "Partition"]


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One day of one table: `version` is a table version in which it can be read for ever."""

    table: str
    ds: date
    version: int
    fingerprint: str

    @property
    def content(self) -> tuple[str, date, str]:
        """What is read, in whichever table version: a day that was taken away and put back is the same."""
        return self.table, self.ds, self.fingerprint


class MissingPartitionError(ValueError):
    """The day is not in the table."""


class Lake:
    """The Delta tables under one root, a local path or s3://BUCKET/PREFIX."""

    def __init__(self, root: str | Path) -> None:
        self._tables = Tables(root)
        self.root = self._tables.root
        self._places: dict[tuple[str, str], Path] = {}
        """By table and name, where this machine reads the files whose checksums were compared."""
        self._opened: dict[tuple[str, int], DeltaTable] = {}
        """By table and version: those never change, and a table of many versions takes 30 ms to open."""

    def uri(self, table: str) -> str:
        """Where `table` (for example `examples/globo`) lives."""
        return self._tables.uri(table)

    def open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        """The Delta table, at `version` or the newest; None before its first commit. DamagedTableError: a commit is
        lost. StorageError: object storage does not answer, or refuses."""
        return self._tables.open(table, version=version)

    def find(self, table: str, ds: date) -> Partition | None:
        """The day's partition as it stands now, or None."""
        if (delta := self.open(table)) is None:
            return None
        self._opened[table, delta.version()] = delta
        return _partition_of(delta, table, ds)

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
        rows: list[pa.Table] = []

        def overwrite(delta: DeltaTable, properties: CommitProperties) -> None:
            rows[:] = rows or [with_ds(data, ds)]  # a stream is read once, however often the race is lost
            write_deltalake(
                delta,
                rows[0],
                mode="overwrite",
                schema_mode="merge" if gains_or_lacks_columns(delta, rows[0].schema) else None,
                predicate=f"{DS} = '{ds}'",
                commit_properties=properties,
                writer_properties=writer
                or WriterProperties(compression="LZ4", max_row_group_size=rows_per_group(rows[0])),
            )

        return self._commit(table, ds, data.schema, overwrite, fingerprint=fingerprint, metadata=metadata or {})

    def commit_files(
        self,
        table: str,
        ds: date,
        names: Sequence[str],
        *,
        schema: pa.Schema,
        fingerprint: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> Partition:
        """Make the finished `TableFile`s of these names the whole of the day, in one commit; otherwise as `commit`.

        No name: a day without rows. Files that the day had before and are named again stay.
        ValueError: a file is missing, has no checksum, or another schema.
        """
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{table} ds={ds}: {sorted(twice)} are named twice")

        def replace(delta: DeltaTable, properties: CommitProperties) -> None:
            replace_files(delta, ds, add_actions(self.uri(table), ds, names, schema=schema), properties, schema=schema)

        return self._commit(table, ds, schema, replace, fingerprint=fingerprint, metadata=metadata or {})

    def share(self, partition: Partition, table: str, *, metadata: Mapping[str, Any] | None = None) -> Partition:
        """Make the partition's files, the same bytes, the whole of its day in another table, in one commit.

        Local files are linked, not copied. The partition keeps its fingerprint. ValueError for one without files.
        """
        source, target, ds = self.uri(partition.table), self.uri(table), partition.ds
        names = [name.rpartition("/")[2] for name in self._tables.names(self._at(partition), of_day(ds))]
        if not names:
            raise ValueError(f"{source} ds={ds} has no rows at version {partition.version}; there is nothing to share")
        for name in names:
            share_file(source, target, ds, name)
        schema = file_schema(target, ds, names[0])
        return self.commit_files(table, ds, names, schema=schema, fingerprint=partition.fingerprint, metadata=metadata)

    def clear(self, table: str, ds: date, *, fingerprint: str, metadata: Mapping[str, Any] | None = None) -> Partition:
        """Make the day one without rows; its files stay for those who read an earlier version of the table."""
        delta = self.open(table)
        if delta is None:
            raise MissingPartitionError(f"{table} is not in the lake under {self.root}; there is nothing to clear")
        schema = pa.schema(field for field in pa.schema(delta.schema().to_arrow()) if field.name != DS)
        return self.commit_files(table, ds, [], schema=schema, fingerprint=fingerprint, metadata=metadata)

    def _commit(
        self,
        table: str,
        ds: date,
        schema: pa.Schema,
        write: Callable[[DeltaTable, CommitProperties], None],
        *,
        fingerprint: str,
        metadata: Mapping[str, Any],
    ) -> Partition:
        """The day as `write` commits it; CommitFailedError from it means that somebody else wrote the day meanwhile."""
        key = fingerprint[:_FINGERPRINT_DIGITS]
        delta: DeltaTable | None = self._create(table, schema, ds, key)
        properties = _properties(table, ds, key, metadata)
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            delta = delta if attempt == 1 else self.open(table)
            assert delta is not None
            if found := self._committed(table, ds, key, delta=delta):
                return self._with_checksums(found)
            try:
                with named_errors(self.uri(table)):
                    write(delta, properties)
                break
            except CommitFailedError:
                if attempt == _COMMIT_ATTEMPTS:
                    raise
                log.warning("lake commit lost a race, trying again table=%s ds=%s attempt=%d", table, ds, attempt)
        partition = self._with_checksums(self.get(table, ds))
        log.info("lake committed table=%s ds=%s version=%d fingerprint=%s", table, ds, partition.version, key)
        return partition

    def _committed(self, table: str, ds: date, key: str, *, delta: DeltaTable | None) -> Partition | None:
        """The day's partition if it is of this fingerprint."""
        found = None if delta is None else _partition_of(delta, table, ds)
        if found is None or found.fingerprint != key:
            return None
        log.info("lake unchanged table=%s ds=%s version=%d fingerprint=%s", table, ds, found.version, key)
        return found

    def _create(self, table: str, schema: pa.Schema, ds: date, key: str) -> DeltaTable:
        """The table, made without rows if it is not there: so every writer commits by predicate; of two that would make
        it with their rows, both would be kept. ValueError: made for other columns, and the day is not written yet."""
        if (found := self.open(table)) is not None:
            if self._committed(table, ds, key, delta=found) is None:
                require_same_metadata(table, found, schema)
            return found
        try:
            self._tables.create(table, ds_schema(schema))
        except DeltaError:
            log.info("lake found table=%s made by another writer, or by a try whose answer was lost", table)
            if (found := self.open(table)) is None:
                raise
            return found
        made = self.open(table)
        assert made is not None
        return made

    def dataset(self, partition: Partition) -> pads.Dataset:
        """The partition at its version, as an Arrow dataset (lazy: project and filter before reading). Its files are
        read whole, once per Lake, to compare their checksums: DamagedTableError names those that differ."""
        table, delta, where = partition.table, self._at(partition), of_day(partition.ds)
        names = self._tables.names(delta, where)
        places, damaged = Checksums(self.uri(table)).checked([n for n in names if (table, n) not in self._places])
        if damaged:
            raise DamagedTableError(
                f"{self.uri(table)}: {damaged} are not what was written (SHA-256). Restore them from a copy, "
                "or move the table away and build its days again"
            )
        self._places |= {(table, name): place for name, place in places.items()}
        return self._tables.dataset(delta, table, {name: self._places[table, name] for name in names}, where)

    def num_rows(self, partition: Partition) -> int:
        """Of the partition, as its commit says; nothing is read."""
        actions = pa.table(self._at(partition).get_add_actions(flatten=True)).to_pylist()
        counts = [action["num_records"] for action in actions if action[f"partition.{DS}"] == str(partition.ds)]
        return sum(counts) if None not in counts else self.dataset(partition).count_rows()

    def read(self, partition: Partition, *, columns: list[str] | None = None) -> pa.Table:
        """The partition at its version, in memory, without the `ds` column unless asked for."""
        dataset = self.dataset(partition)
        wanted = columns if columns is not None else [name for name in dataset.schema.names if name != DS]
        return dataset.to_table(columns=wanted)

    def _with_checksums(self, partition: Partition) -> Partition:
        """After the commit: a run that is killed in between leaves it to the next."""
        Checksums(self.uri(partition.table)).keep(self._tables.names(self._at(partition), of_day(partition.ds)))
        return partition

    def _at(self, partition: Partition) -> DeltaTable:
        """The table in the version that the partition was read in."""
        key = partition.table, partition.version
        if key not in self._opened:
            if (delta := self.open(partition.table, version=partition.version)) is None:
                raise MissingPartitionError(f"{self.uri(partition.table)} is gone; run the step that writes it first")
            self._opened[key] = delta
        return self._opened[key]

    def files(self, partition: Partition) -> list[str]:
        """URIs of the partition's Parquet files, sorted."""
        delta = self._at(partition)
        return sorted(delta.file_uris(file_pruning_predicate=of_day(partition.ds)))


def _application(table: str, ds: date) -> str:
    return f"{table}/ds={ds}"


def _properties(table: str, ds: date, key: str, metadata: Mapping[str, Any]) -> CommitProperties:
    """What a commit of the day records: the fingerprint, so that of two writers one conflicts, and `metadata`."""
    return CommitProperties(
        custom_metadata={"usermodel.ds": ds.isoformat(), "usermodel.fingerprint": key}
        | {f"usermodel.{name}": str(value) for name, value in metadata.items()},
        app_transactions=[Transaction(_application(table, ds), int(key, 16))],
        max_commit_retries=_COMMIT_ATTEMPTS,
    )


def _partition_of(delta: DeltaTable, table: str, ds: date) -> Partition | None:
    committed = delta.transaction_version(_application(table, ds))
    if committed is None:
        return None
    return Partition(table=table, ds=ds, version=delta.version(), fingerprint=f"{committed:0{_FINGERPRINT_DIGITS}x}")
