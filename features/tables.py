"""The Delta tables under one root, as delta-rs opens them and as Arrow reads their files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from features.object_store import in_object_store, storage_options
from features.schema import DS
from features.storage import LocalFiles, TableFiles, table_files
from features.storage_errors import named_errors

log = logging.getLogger(__name__)

_LOG = "_delta_log"
_STORED_COMMITS_PER_CHECKPOINT = 10
"""Opening a table reads the commits since its last checkpoint, two requests each in object storage."""
LogFilter = list[tuple[str, str, str]]
"""Of partitions, as delta-rs takes it."""


class DamagedTableError(RuntimeError):
    """A table is not what was committed to it; it is neither read nor written."""


class Tables:
    """Those under `root`, a local path or s3://BUCKET/PREFIX."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        if "://" in self.root and not in_object_store(self.root):
            raise ValueError(f"{self.root} is no place for tables; write s3://BUCKET/PREFIX, or a folder")
        self._files: dict[str, TableFiles] = {}
        self._whole: dict[str, str] = {}
        """By table in object storage, the newest commit that was seen whole: one that is there stays as it is."""

    def uri(self, table: str) -> str:
        """Where `table` (for example `examples/globo`) lives."""
        return f"{self.root}/{table}"

    def options(self) -> dict[str, str]:
        """What delta-rs needs to reach them: secrets, for object storage."""
        return storage_options(self.root)

    def configuration(self) -> Mapping[str, str | None]:
        """Of a table that is made. Its log is never cleaned up: delta-rs would delete commits of 30 days ago once there
        is a checkpoint after them, and with them the versions that partitions name for ever."""
        found = {"delta.enableExpiredLogCleanup": "false"}
        if in_object_store(self.root):
            found["delta.checkpointInterval"] = str(_STORED_COMMITS_PER_CHECKPOINT)
        return found

    def files(self, table: str) -> TableFiles:
        """The table's, by their paths within it."""
        if table not in self._files:
            self._files[table] = table_files(self.uri(table))
        return self._files[table]

    def open(self, table: str, *, version: int | None = None) -> DeltaTable | None:
        """The Delta table, at `version` or the newest; None before its first commit. DamagedTableError: see
        `_require_whole_log`. StorageError: the storage cannot say."""
        with named_errors(self.uri(table)):
            try:
                delta = DeltaTable(self.uri(table), version=version, storage_options=self.options())
            except TableNotFoundError:
                return None
            except DeltaError:
                self._require_whole_log(table)
                raise
        self._require_whole_log(table)
        return delta

    def create(self, table: str, schema: pa.Schema) -> None:
        """Without rows. DeltaError: it is there."""
        with named_errors(self.uri(table)):
            DeltaTable.create(
                self.uri(table),
                schema=schema,
                partition_by=[DS],
                configuration=self.configuration(),
                storage_options=self.options(),
            )

    def _require_whole_log(self, table: str) -> None:
        """DamagedTableError for a commit file without a byte, as a machine that lost power leaves it. delta-rs takes
        it for a version that changed nothing: the day that it committed would be gone, unnoticed."""
        found = self.files(table).list(_LOG, after=self._whole.get(table, ""))
        commits = [file for file in found if file.path.endswith(".json")]
        if empty := sorted(Path(file.path).name for file in commits if not file.size):
            raise DamagedTableError(
                f"{self.uri(table)}/{_LOG} has empty files {empty}: those commits are lost. Restore them from a copy, "
                "or move the table away and build its days again"
            )
        if commits and in_object_store(self.root):
            self._whole[table] = max(file.path for file in commits)

    def dataset(self, delta: DeltaTable, table: str, places: Mapping[str, Path], where: LogFilter) -> pads.Dataset:
        """The table's files of the partitions `where` (empty: all of them), which this machine reads at `places`.

        By Arrow's own file system, never one that is written in Python: Arrow's threads let go of files after the last
        row is delivered, and one that needs the interpreter for that while it exits aborts the process.
        """
        files = self.files(table)
        if isinstance(files, LocalFiles):
            below = SubTreeFileSystem(str(files.folder), LocalFileSystem())
            return delta.to_pyarrow_dataset(filesystem=below, file_pruning_predicate=where or None)
        reached = LocalFileSystem()
        dataset = delta.to_pyarrow_dataset(filesystem=reached, file_pruning_predicate=where or None)
        fragments = [
            dataset.format.make_fragment(
                str(places[name_of(fragment.path)]), reached, partition_expression=fragment.partition_expression
            )
            for fragment in dataset.get_fragments()
        ]
        return pads.FileSystemDataset(fragments, dataset.schema, dataset.format, reached) if fragments else dataset

    def names(self, delta: DeltaTable, where: LogFilter) -> list[str]:
        """The files of these partitions, as paths within the table, sorted."""
        return sorted(map(name_of, delta.file_uris(file_pruning_predicate=where or None)))


def name_of(path: str) -> str:
    """`ds=…/part-….parquet`, however the path begins."""
    return "/".join(path.split("/")[-2:])


def of_day(ds: object) -> LogFilter:
    """The day's partition."""
    return [(DS, "=", str(ds))]


def fragments_of(dataset: pads.Dataset) -> list[pads.Fragment]:
    """The dataset's files in the order of their paths: the same on every rank and every time."""
    return sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path))
