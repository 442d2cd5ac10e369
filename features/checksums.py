"""SHA-256 of every data file of a table, beside it: `<table>/_checksums/ds=…/<file>.sha256`.

delta-rs writes no page checksums, and nine flipped bits in ten read as other numbers. Delta and its other readers leave
folders with an underscore alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from features.storage import table_files

log = logging.getLogger(__name__)

FOLDER = "_checksums"


class Checksums:
    """Those of one table, a local folder or an object-store URI."""

    def __init__(self, table: str) -> None:
        self._uri = table
        self._files = table_files(table)

    def keep(self, names: Iterable[str]) -> None:
        """Write those that are not there yet. names: paths within the table."""
        missing = [name for name in names if not self.has(name)]
        for name, path in zip(missing, self._files.local(missing), strict=True):
            self.put(name, _sha256(path))

    def has(self, name: str) -> bool:
        """Whether the file has one."""
        return self._files.find(self._path(name)) is not None

    def put(self, name: str, sha256: str) -> None:
        """Keep `sha256` as that of the file."""
        self._files.put(self._path(name), sha256.encode())

    def checked(self, names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
        """By name, where this machine reads the files; and those that are not what was written. One without a checksum
        is warned of, and passes."""
        places = dict(zip(names, self._files.local(names), strict=True))
        with ThreadPoolExecutor(self._files.at_once) as pool:
            differ = list(pool.map(self._differs, places, places.values()))
        wrong = [name for name, one in zip(places, differ, strict=True) if one]
        if wrong:  # by a disk of this machine, perhaps
            self._files.forget(wrong)
            places |= dict(zip(wrong, self._files.local(wrong), strict=True))
        return places, [name for name in wrong if self._differs(name, places[name])]

    def get(self, name: str) -> str:
        """That of the file as it was written; FileNotFoundError for a file without."""
        return self._files.read(self._path(name)).decode(errors="replace")

    def _differs(self, name: str, path: Path) -> bool:
        try:
            return self.get(name) != _sha256(path)
        except FileNotFoundError:
            log.warning("%s/%s has no checksum: run the step that writes it again to add it", self._uri, name)
            return False

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{name}.sha256"


def _sha256(path: Path) -> str:
    """Of the file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
