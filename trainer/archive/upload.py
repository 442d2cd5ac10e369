"""Puts a sealed folder into the archive: its pieces, several at a time, then the manifest that makes it whole."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from trainer.archive.archive import GRACE, IN_FLIGHT, Archive, File, Manifest, OtherContentError
from trainer.archive.windowed import in_order
from trainer.checkpoint import MANIFEST, DamagedCheckpointError

log = logging.getLogger(__name__)


class _Piece(NamedTuple):
    key: str
    content: bytes


def push(
    archive: Archive,
    folder: Path,
    *,
    may_commit: Callable[[], None] = lambda: None,
    go_on: Callable[[], None] = lambda: None,
    at_a_time: int = IN_FLIGHT,
) -> bool:
    """Have the sealed `folder`, and the one that it adds to, in the archive; whether this call made it whole there.

    Repeating it changes nothing, and what a killed one had put is not put again. Memory: `at_a_time` pieces.
    may_commit: called right before the manifest is put, go_on before every piece; what they raise prevents it.
    OtherContentError: another folder has the name. DamagedCheckpointError: a file is not what was sealed; nothing is
    committed. StorageError: the archive could not be asked, or did not do it.
    """
    manifest = Manifest.parse((folder / MANIFEST).read_bytes(), where=str(folder / MANIFEST))
    if _is_there(archive, folder, manifest):
        return False
    if manifest.base is not None:
        push(archive, folder.parent / manifest.base, go_on=go_on, at_a_time=at_a_time)
    began = time.monotonic()
    known = _reusable(archive, folder)

    def put(piece: _Piece) -> None:
        go_on()
        if known.get(piece.key) != len(piece.content):
            archive.objects.put(piece.key, piece.content)

    pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="upload")
    try:
        put_pieces = in_order(pool, put, _cut(archive, folder, manifest), ahead=at_a_time)
        num_bytes = sum(len(piece.content) for piece, _ in put_pieces)
    finally:
        pool.shutdown(cancel_futures=True)
    may_commit()
    if not archive.objects.create(archive.manifest_key(folder), manifest.content):
        return not _is_there(archive, folder, manifest)
    log.info("archived %s bytes=%d in %.2f s", archive.uri_of(folder), num_bytes, time.monotonic() - began)
    return True


def _is_there(archive: Archive, folder: Path, manifest: Manifest) -> bool:
    found = archive.objects.get(archive.manifest_key(folder))
    if found is None:
        return False
    if bytes(found) != manifest.content:
        raise OtherContentError(
            f"{archive.uri_of(folder)} is another one than {folder}: somebody else's was archived first, and stays"
        )
    return True


def _reusable(archive: Archive, folder: Path) -> dict[str, int]:
    """Bytes by key of the pieces that an earlier attempt left, and that nobody is about to clear."""
    young = datetime.now(UTC) - GRACE / 2
    pieces = (piece for of_file in archive.pieces(folder).values() for piece in of_file)
    return {piece.key: piece.num_bytes for piece in pieces if piece.modified > young}


def _cut(archive: Archive, folder: Path, manifest: Manifest) -> Iterator[_Piece]:
    """Every file's pieces, and an error after the last where the file is not what was sealed."""
    for file in manifest.files:
        digest = hashlib.sha256()
        with (folder / file.name).open("rb") as opened:
            number = 0
            while content := opened.read(archive.piece_bytes):
                digest.update(content)
                yield _Piece(archive.piece_key(folder, file, number), content)
                number += 1
        _require(digest.hexdigest(), folder, file)


def _require(found: str, folder: Path, file: File) -> None:
    if found != file.sha256:
        raise DamagedCheckpointError(
            f"{folder / file.name} has SHA-256 {found[:12]}…, {MANIFEST} says {file.sha256[:12]}…; it is not archived: "
            "delete its directory and train that day again"
        )
