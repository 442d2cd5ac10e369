"""The files of a Delta table, for what delta-rs does not do itself."""

from __future__ import annotations

from pathlib import Path

from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSystem, LocalFileSystem, PyFileSystem, SubTreeFileSystem


def table_files(uri: str) -> FileSystem:
    """By their paths within the table at `uri`, a local folder or an object-store URI.

    Arrow's own file system for a local one, not delta-rs's, which is written in Python: Arrow's threads let go of files
    after the last row is delivered, and one that needs the interpreter for that while it exits aborts the process.
    """
    if "://" in uri:
        return PyFileSystem(DeltaStorageHandler(uri))
    return SubTreeFileSystem(str(Path(uri).absolute()), LocalFileSystem())
