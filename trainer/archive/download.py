"""Brings a folder of the archive into the home: verified byte by byte, there as a whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from features.storage_errors import StorageError
from trainer.archive.archive import IN_FLIGHT, Archive, File, Manifest
from trainer.archive.objects import Stored
from trainer.archive.windowed import in_order
from trainer.checkpoint import MANIFEST, DamagedCheckpointError, fsync, is_complete
from trainer.locks import file_lock

log = logging.getLogger(__name__)

_BROUGHT = ".brought-"


class _Piece(NamedTuple):
    file: File
    stored: Stored
    is_last: bool


def bring(archive: Archive, folder: Path) -> bool:
    """Have `folder`, and the one that it adds to, in the home; False where neither the home nor the archive has it.

    A whole one that is here already is taken as it is, without a question to the archive. Of two processes that want
    the same, the second waits for the first. Memory: IN_FLIGHT pieces.
    DamagedCheckpointError names the file of the archive that is not what was sealed: nothing of the folder is used.
    """
    if is_complete(folder):
        return True
    lock = archive.home / "locks" / f"bring-{archive.key_of(folder.parent).replace('/', '+')}.lock"
    with file_lock(lock):
        return _bring(archive, folder)


def _bring(archive: Archive, folder: Path) -> bool:
    if is_complete(folder):
        return True
    manifest = archive.manifest(folder)
    if manifest is None:
        return False
    if manifest.base is not None:
        _bring(archive, folder.parent / manifest.base)
        if is_complete(folder):  # it was all that was missing
            return True
    began = time.monotonic()
    aside = folder.with_name(f"{_BROUGHT}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _fill(archive, folder, manifest, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    (aside / MANIFEST).write_bytes(manifest.content)
    for path in [*aside.rglob("*"), aside]:
        fsync(path)
    if folder.exists():  # and is not whole
        shutil.rmtree(folder)
    aside.rename(folder)
    fsync(folder.parent)
    num_bytes = sum(file.num_bytes for file in manifest.files)
    log.info("brought %s bytes=%d in %.2f s", archive.uri_of(folder), num_bytes, time.monotonic() - began)
    return True


def _fill(archive: Archive, folder: Path, manifest: Manifest, aside: Path) -> None:
    stored = {sha256: list(pieces.values()) for sha256, pieces in archive.pieces(folder).items()}
    for file in manifest.files:
        _require_size(archive, folder, file, stored.get(file.sha256, []))
    pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="download")
    try:
        pieces = in_order(
            pool, lambda piece: _get(archive, piece.stored), _pieces(manifest.files, stored), ahead=IN_FLIGHT
        )
        for file in manifest.files:
            _write(archive, folder, file, aside / file.name, pieces)
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(files: Sequence[File], stored: dict[str, list[Stored]]) -> Iterator[_Piece]:
    for file in files:
        of_file = stored.get(file.sha256, []) if file.num_bytes else []
        for number, piece in enumerate(of_file, start=1):
            yield _Piece(file, piece, number == len(of_file))


def _write(archive: Archive, folder: Path, file: File, path: Path, pieces: Iterator[tuple[_Piece, memoryview]]) -> None:
    """The file from the next pieces, which are its own."""
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as opened:
        while file.num_bytes:
            piece, content = next(pieces)
            digest.update(content)
            opened.write(content)
            if piece.is_last:
                break
    if digest.hexdigest() != file.sha256:
        raise _damaged(archive, folder, file, f"has SHA-256 {digest.hexdigest()[:12]}…, not {file.sha256[:12]}…")


def read(archive: Archive, folder: Path, name: str) -> bytes | None:
    """One small file of a folder of the archive, verified; None where it holds no such folder, or the folder no such
    file."""
    manifest = archive.manifest(folder)
    file = next((file for file in manifest.files if file.name == name), None) if manifest is not None else None
    if file is None:
        return None
    stored = list(archive.pieces(folder, of=file).get(file.sha256, {}).values())
    _require_size(archive, folder, file, stored)
    content = b"".join(_get(archive, piece) for piece in stored)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise _damaged(archive, folder, file, "has another SHA-256")
    return content


def _get(archive: Archive, piece: Stored) -> memoryview:
    content = archive.objects.get(piece.key)
    if content is None:
        raise StorageError(f"{archive.objects.uri_of(piece.key)} went while it was read; run the same again")
    return content


def _require_size(archive: Archive, folder: Path, file: File, stored: Sequence[Stored]) -> None:
    found = sum(piece.num_bytes for piece in stored)
    if found != file.num_bytes:
        raise _damaged(archive, folder, file, f"has {found} bytes of {file.num_bytes}")


def _damaged(archive: Archive, folder: Path, file: File, what: str) -> DamagedCheckpointError:
    uri = archive.uri_of(folder)
    return DamagedCheckpointError(
        f"{uri}: {file.name} (the objects in {uri}/{file.sha256}) {what}; nothing of it is used. "
        f"Delete {uri}.manifest.json, then run its step again where the folder is still there, or train that day again"
    )
