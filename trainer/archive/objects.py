"""The few verbs that the archive needs of object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from features.storage_errors import named_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object, as a listing tells it."""

    key: str
    num_bytes: int
    modified: datetime
    """By the storage's clock."""


class Objects:
    """What lies under one URI. Keys are relative to it. Opened on first use; StorageError from every verb."""

    def __init__(self, uri: str, open_store: Callable[[str], ObjectStore]) -> None:
        self.uri = uri.rstrip("/")
        self._open = open_store
        self._store: ObjectStore | None = None

    def uri_of(self, key: str) -> str:
        """For people and registries."""
        return f"{self.uri}/{key}"

    def create(self, key: str, content: bytes) -> bool:
        """Put the object if there is none (`If-None-Match: *`); False where there is one."""
        from obstore import put
        from obstore.exceptions import AlreadyExistsError

        with self._told(key) as store:
            try:
                put(store, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def put(self, key: str, content: bytes) -> None:
        """Put the object, at once: whoever reads sees all of it or what was there before."""
        from obstore import put

        with self._told(key) as store:
            put(store, key, content, use_multipart=False)

    def get(self, key: str) -> memoryview | None:
        """Its bytes; None where there is none."""
        from obstore import get

        with self._told(key) as store:
            try:
                return memoryview(get(store, key).bytes())
            except FileNotFoundError as error:
                _require_missing(error)
                return None

    def head(self, key: str) -> Stored | None:
        """What a listing would tell of it."""
        from obstore import head

        with self._told(key) as store:
            try:
                found = head(store, key)
            except FileNotFoundError as error:
                _require_missing(error)
                return None
            return Stored(key=key, num_bytes=found["size"], modified=found["last_modified"])

    def under(self, folder: str) -> list[Stored]:
        """All that lies in it, at any depth."""
        from obstore import list as listed

        with self._told(folder) as store:
            return [
                Stored(key=one["path"], num_bytes=one["size"], modified=one["last_modified"])
                for chunk in listed(store, folder)
                for one in chunk
            ]

    def children(self, folder: str) -> tuple[list[Stored], list[str]]:
        """(objects, folders) that lie in it, by their keys, not deeper."""
        from obstore import list_with_delimiter

        with self._told(folder) as store:
            found = list_with_delimiter(store, folder)
            objects = [
                Stored(key=one["path"], num_bytes=one["size"], modified=one["last_modified"])
                for one in found["objects"]
            ]
            return objects, list(found["common_prefixes"])

    def delete(self, keys: Sequence[str]) -> None:
        """In no order; those that are gone already do not matter."""
        from obstore import delete

        if not keys:
            return
        with self._told(keys[0]) as store:
            try:
                delete(store, list(keys))
            except FileNotFoundError as error:  # of a folder, not of S3
                _require_missing(error)
                for key in keys:
                    with suppress(FileNotFoundError):
                        delete(store, key)

    @contextmanager
    def _told(self, key: str) -> Iterator[ObjectStore]:
        with named_errors(self.uri_of(key)):
            if self._store is None:
                self._store = self._open(self.uri)
            yield self._store


def _require_missing(error: FileNotFoundError) -> None:
    """What is not there may be the bucket, which is no answer."""
    if "NoSuchBucket" in str(error):
        raise error
