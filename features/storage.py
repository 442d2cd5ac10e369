"""The files of a Delta table, for what delta-rs does not do itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSystem, LocalFileSystem, PyFileSystem, SubTreeFileSystem


def table_files(uri: str) -> FileSystem:
    """By their paths within the table at `uri`, a local folder or an object-store URI.

    Arrow's own file system for a local one, not delta-rs's, which is written in Python: Arrow's threads let go of files
    after the last row is delivered, and one that needs the interpreter for that while it exits aborts the process.
    """
    if "://" in uri:
        return PyFileSystem(_Store(uri))
    return SubTreeFileSystem(str(Path(uri).absolute()), LocalFileSystem())


def make_durable(files: FileSystem, path: str) -> None:
    """Survive a power cut: a local file (or folder) is fsynced; an object store keeps what it has acknowledged."""
    if not isinstance(files, SubTreeFileSystem):
        return
    descriptor = os.open(Path(files.base_path) / path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Store(DeltaStorageHandler):
    """delta-rs's, whose files take bytes alone; Arrow hands its own buffers to them."""

    def open_output_stream(self, path: str, metadata: dict[str, str] | None = None) -> pa.PythonFile:
        return pa.PythonFile(_Bytes(self._handler.open_output_stream(path, metadata)), mode="w")


class OpenedFile:
    """A file under another: what happens to the bytes on the way is its subclass's `write`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """All of it."""
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Hand on what waits."""
        self._file.flush()

    def close(self) -> None:
        """May be called again."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._file.closed)


class _Bytes(OpenedFile):
    def write(self, data: Any) -> int:
        return super().write(bytes(data))
