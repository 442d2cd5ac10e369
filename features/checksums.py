"""SHA-256 of every data file of a table, beside it: `<table>/_checksums/ds=…/<file>.sha256`.

delta-rs writes no page checksums, and nine flipped bits in ten read as other numbers. Delta and its other readers leave
folders with an underscore alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from uuid import uuid4

from pyarrow.fs import FileType

from features.storage import make_durable, table_files

log = logging.getLogger(__name__)

FOLDER = "_checksums"


class Checksums:
    """Those of one table, a local folder or an object-store URI."""

    def __init__(self, table: str) -> None:
        self._uri = table
        self._files = table_files(table)

    def keep(self, names: Iterable[str]) -> None:
        """Write those that are not there yet. names: paths within the table."""
        for name in names:
            if not self.has(name):
                self.put(name, self._sha256(name))

    def has(self, name: str) -> bool:
        """Whether the file has one."""
        return bool(self._files.get_file_info(self._path(name)).type is not FileType.NotFound)

    def put(self, name: str, sha256: str) -> None:
        """Keep `sha256` as that of the file."""
        path = self._path(name)
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        partial = f"{path}.{uuid4().hex[:12]}"
        with self._files.open_output_stream(partial) as file:
            file.write(sha256.encode())
        make_durable(self._files, partial)
        self._files.move(partial, path)

    def damaged(self, names: Iterable[str]) -> list[str]:
        """The files that are not what was written; one without a checksum is warned of, and passes."""
        found = []
        for name in names:
            if not self.has(name):
                log.warning("%s/%s has no checksum: run the step that writes it again to add it", self._uri, name)
            elif self._sha256(name) != self.get(name):
                found.append(name)
        return found

    def get(self, name: str) -> str:
        """That of the file as it was written; FileNotFoundError for a file without."""
        with self._files.open_input_stream(self._path(name)) as file:
            return str(file.read().decode(errors="replace"))

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{name}.sha256"

    def _sha256(self, name: str) -> str:
        """Of the file as it is now."""
        with self._files.open_input_stream(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
