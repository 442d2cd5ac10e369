"""The files of a table in S3-compatible storage.

What is put there is there whole from one moment on: a PUT, or the last step of an upload in parts, makes it so, and a
writer that is killed before leaves no object (parts of an upload: see `unfinished`). What is read is fetched once to
this machine's cache, in parts at the same time, and read from there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from features.file_cache import FileCache
from features.object_store import connection
from features.storage import StoredFile, TableFiles
from features.storage_errors import named_errors
from infra.settings import get_settings

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import S3Store

PART_BYTES = 16 * 2**20
"""Fetched by a request; fewer and larger ones wait less, more and smaller ones go side by side."""
_AT_ONCE = 8
_LISTED_AT_ONCE = 1000
_READ_BYTES = 2**20
_GIB = 2**30


class StoredFiles:
    """See `TableFiles`. StorageError, from every verb: the storage refuses or does not answer."""

    at_once = _AT_ONCE

    def __init__(self, uri: str) -> None:
        settings = get_settings()
        self.uri = uri
        self._store = connection().store(uri)
        self._cache = FileCache(settings.home / "cache" / "lake", most_bytes=int(settings.storage_cache_gib * _GIB))

    def find(self, path: str) -> StoredFile | None:
        """See `TableFiles`."""
        with named_errors(self.uri):
            try:
                return _stored(self._store.head(path))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def list(self, folder: str, *, after: str = "") -> Iterator[StoredFile]:
        """See `TableFiles`."""
        found = self._store.list(folder or None, offset=after or None, chunk_size=_LISTED_AT_ONCE)
        while True:
            with named_errors(self.uri):
                chunk = next(found, None)
            if chunk is None:
                return
            yield from map(_stored, chunk)

    def read(self, path: str) -> bytes:
        """See `TableFiles`."""
        with named_errors(self.uri):
            return bytes(self._store.get(path).bytes())

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """See `TableFiles`. Only what is read is fetched, a MiB at a time."""
        with named_errors(self.uri), io.BufferedReader(_Ranges(self._store, path), _READ_BYTES) as file:
            yield cast("BinaryIO", file)

    def local(self, paths: Sequence[str]) -> Sequence[Path]:
        """See `TableFiles`."""
        with (
            ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as files,
            ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch-part") as parts,
        ):
            found = list(files.map(lambda path: self._fetched(path, parts), paths))
        if any(new for _, new in found):
            self._cache.make_room()
        return [target for target, _ in found]

    def forget(self, paths: Iterable[str]) -> None:
        """See `TableFiles`."""
        for path in paths:
            self._target(path, self._head(path)).unlink(missing_ok=True)

    def put(self, path: str, content: bytes) -> None:
        """See `TableFiles`."""
        with named_errors(self.uri):
            self._store.put(path, content)

    def draft(self, path: str) -> Path:
        """See `TableFiles`."""
        return self._cache.draft()

    def put_draft(self, draft: Path, path: str) -> None:
        """See `TableFiles`."""
        with named_errors(self.uri):
            put = self._store.put(path, draft, chunk_size=PART_BYTES, max_concurrency=_AT_ONCE)
        if put["e_tag"] is None:
            draft.unlink()
        else:
            self._cache.keep(draft, self._cache.path(self.uri, path, put["e_tag"]))

    def copy_from(self, other: TableFiles, path: str) -> None:
        """See `TableFiles`. Within one storage, by the storage."""
        if isinstance(other, StoredFiles) and other._bucket == self._bucket:
            with named_errors(self.uri):
                connection().store(self._bucket).copy(other._key(path), self._key(path))
            return
        (source,) = other.local([path])
        with named_errors(self.uri):
            self._store.put(path, source, chunk_size=PART_BYTES)

    def delete(self, path: str) -> None:
        """See `TableFiles`."""
        with named_errors(self.uri):
            self._store.delete(path)

    def _fetched(self, path: str, parts: Executor) -> tuple[Path, bool]:
        """Where it lies now, and whether it was fetched."""
        head = self._head(path)
        target = self._target(path, head)

        def write(descriptor: int) -> None:
            list(parts.map(lambda start: self._part(descriptor, path, head, start), range(0, head["size"], PART_BYTES)))

        return target, self._cache.fetch(target, write)

    def _part(self, descriptor: int, path: str, head: ObjectMeta, start: int) -> None:
        options: GetOptions = {"range": (start, min(start + PART_BYTES, head["size"])), "if_match": head["e_tag"]}
        with named_errors(self.uri):
            rest = memoryview(self._store.get(path, options=options).bytes())
        while rest:
            written = os.pwrite(descriptor, rest, start)
            start, rest = start + written, rest[written:]

    def _head(self, path: str) -> ObjectMeta:
        with named_errors(self.uri):
            return self._store.head(path)

    def _target(self, path: str, head: ObjectMeta) -> Path:
        return self._cache.path(self.uri, path, head["e_tag"] or f"{head['last_modified']} {head['size']}")

    def _key(self, path: str) -> str:
        """Within the bucket."""
        return f"{self.uri.removeprefix(self._bucket)}/{path}".lstrip("/")

    @property
    def _bucket(self) -> str:
        """s3://BUCKET"""
        return "/".join(self.uri.split("/")[:3])


class _Ranges(io.RawIOBase):
    """A file that is read a range at a time."""

    def __init__(self, store: S3Store, path: str) -> None:
        self._store, self._path, self._at = store, path, 0
        self._size = store.head(path)["size"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        found = memoryview(self._store.get_range(self._path, start=self._at, end=end))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _stored(found: ObjectMeta) -> StoredFile:
    return StoredFile(path=found["path"], size=found["size"], modified=found["last_modified"])
