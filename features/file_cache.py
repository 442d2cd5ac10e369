"""Files of object storage on this machine's disk: fetched once for all its processes, and gone when room is wanted.

A file is named by its ETag: another content is another file. Folders that a process has used stay until it ends: it
holds their file locks, which the kernel gives back however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

log = logging.getLogger(__name__)

_DRAFTS = "drafts"
_held: dict[Path, int] = {}
"""By folder, the descriptor that holds its lock for this process."""
_holding = threading.Lock()


class FileCache:
    """Below one folder of this machine's own disk, at most about `most_bytes`."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder.absolute()
        self._most_bytes = most_bytes

    def path(self, table: str, path: str, tag: str) -> Path:
        """Where the file of the table at a URI, of this ETag, lies or would. In the order of the files' own paths."""
        of, key = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (table, tag))
        stem, dot, kind = path.rpartition(".")
        return self._folder / of / f"{stem}{dot}{key}{dot}{kind}"

    def draft(self) -> Path:
        """A new file's place. It goes with this process."""
        folder = self._folder / _DRAFTS / str(os.getpid())
        _hold(folder)
        return folder / uuid4().hex

    def fetch(self, target: Path, write: Callable[[int], None]) -> bool:
        """`target` is there and whole when this ends: `write` fills an open file, in one process at a time. Whether it
        was not there before."""
        _hold(target.parent)
        if target.exists():
            return False
        partial = target.with_name(f"{target.name}.partial")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if missing := not target.exists():
                os.ftruncate(descriptor, 0)
                write(descriptor)
                partial.rename(target)
            elif _is(descriptor, partial):
                partial.unlink()
            return missing
        finally:
            os.close(descriptor)

    def keep(self, draft: Path, target: Path) -> None:
        """A file that was written here need not be fetched."""
        _hold(target.parent)
        draft.replace(target)

    def make_room(self) -> None:
        """Delete folders, whole, what was not used for longest first, until the rest fits; none that is in use."""
        folders = {path.parent for path in self._folder.rglob("*") if path.is_file()}
        sizes = {folder: _num_bytes(folder) for folder in folders}
        dead = {folder for folder in folders if folder.parent.name == _DRAFTS}
        for folder in sorted(folders, key=lambda one: (one not in dead, _used_at(one))):
            if (sum(sizes.values()) > self._most_bytes or folder in dead) and _remove(folder):
                log.info("the cache lets go of %s, %d bytes", folder, sizes.pop(folder))
        if (total := sum(sizes.values())) > self._most_bytes:
            log.warning("%s holds %d bytes, all in use, more than USERMODEL_STORAGE_CACHE_GIB", self._folder, total)


def _hold(folder: Path) -> None:
    """Nobody removes the folder while this process lives."""
    with _holding:
        if folder in _held and not _is(_held[folder], folder):  # a person emptied the cache
            os.close(_held.pop(folder))
        if folder not in _held:
            _held[folder] = _locked(folder)
    os.utime(_held[folder])


def _locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed since it was made
            continue
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is(descriptor, folder):
            return descriptor
        os.close(descriptor)


def _remove(folder: Path) -> bool:
    """Whether it went: nobody holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """Whether the path still names what was opened."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def _num_bytes(folder: Path) -> int:
    """Of the files that are there: another process may rename or remove some meanwhile."""
    found = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
