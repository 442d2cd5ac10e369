"""The files of a Delta table, for what delta-rs does not do itself: those of a folder; `stored_files` has others.

Whatever the place, a file is there whole or not at all, and nothing is lost that was acknowledged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from uuid import uuid4

from features.object_store import in_object_store


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """What is known of a file without reading it."""

    path: str
    size: int
    modified: datetime


class TableFiles(Protocol):
    """By their paths within the table."""

    at_once: int
    """Requests that are worth making side by side."""

    def find(self, path: str) -> StoredFile | None:
        """None: it is not there."""

    def list(self, folder: str, *, after: str = "") -> Iterator[StoredFile]:
        """Those below the folder ("": all), at any depth, of a path beyond `after`; in any order."""

    def read(self, path: str) -> bytes:
        """All of a small file; FileNotFoundError."""

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """To read a part of it; FileNotFoundError."""

    def local(self, paths: Sequence[str]) -> Sequence[Path]:
        """The same bytes as files of this machine, to read."""

    def forget(self, paths: Iterable[str]) -> None:
        """`local` fetches them anew."""

    def put(self, path: str, content: bytes) -> None:
        """The file holds `content`, and did not hold a part of it."""

    def draft(self, path: str) -> Path:
        """Where this machine writes the file before it is put."""

    def put_draft(self, draft: Path, path: str) -> None:
        """It is the file from now on; the draft is gone."""

    def copy_from(self, other: TableFiles, path: str) -> None:
        """The same bytes as `other` has there."""

    def delete(self, path: str) -> None:
        """It is not there from now on, and may not have been."""


def table_files(uri: str) -> TableFiles:
    """Those of the table at `uri`, a folder or s3://BUCKET/PREFIX."""
    if in_object_store(uri):
        from features.stored_files import StoredFiles

        return StoredFiles(uri)
    return LocalFiles(Path(uri))


class LocalFiles:
    """Those below a folder, of this machine or shared by several: a rename within it is one step."""

    at_once = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def find(self, path: str) -> StoredFile | None:
        """See `TableFiles`."""
        try:
            return self._stored(self.folder / path)
        except FileNotFoundError:
            return None

    def list(self, folder: str, *, after: str = "") -> Iterator[StoredFile]:
        """See `TableFiles`."""
        for parent, _, names in os.walk(self.folder / folder):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):  # gone since
                    if path.relative_to(self.folder).as_posix() > after:
                        yield self._stored(path)

    def read(self, path: str) -> bytes:
        """See `TableFiles`."""
        return (self.folder / path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """See `TableFiles`."""
        return (self.folder / path).open("rb")

    def local(self, paths: Sequence[str]) -> Sequence[Path]:
        """See `TableFiles`."""
        return [self.folder / path for path in paths]

    def forget(self, paths: Iterable[str]) -> None:
        """See `TableFiles`."""

    def put(self, path: str, content: bytes) -> None:
        """See `TableFiles`."""
        draft = self.draft(path)
        draft.write_bytes(content)
        self.put_draft(draft, path)

    def draft(self, path: str) -> Path:
        """See `TableFiles`."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{path}.{uuid4().hex[:12]}.partial"

    def put_draft(self, draft: Path, path: str) -> None:
        """See `TableFiles`. It survives a power cut."""
        make_durable(draft)
        draft.replace(self.folder / path)
        make_durable((self.folder / path).parent)

    def copy_from(self, other: TableFiles, path: str) -> None:
        """See `TableFiles`. A link where both are folders of one disk."""
        draft, (source,) = self.draft(path), other.local([path])
        if isinstance(other, LocalFiles):
            with suppress(FileExistsError):
                (self.folder / path).hardlink_to(source)
            return
        shutil.copyfile(source, draft)
        self.put_draft(draft, path)

    def delete(self, path: str) -> None:
        """See `TableFiles`."""
        (self.folder / path).unlink(missing_ok=True)

    def _stored(self, path: Path) -> StoredFile:
        found = path.stat()
        return StoredFile(
            path=path.relative_to(self.folder).as_posix(),
            size=found.st_size,
            modified=datetime.fromtimestamp(found.st_mtime, UTC),
        )


def make_durable(path: Path) -> None:
    """A file or folder survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
