"""Puts a sealed folder into the archive: its pieces, several at a time, then the manifest that makes it whole."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from features.storage_errors import StorageError
from trainer.archive.archive import GRACE, IN_FLIGHT, Archive, File, Manifest, OtherContentError
from trainer.archive.windowed import in_order
from trainer.checkpoint import MANIFEST, DamagedCheckpointError

log = logging.getLogger(__name__)


class _Piece(NamedTuple):
    file: File
    number: int
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

    Repeating it changes nothing but puts back what is missing there; what a killed one had put is not put again.
    Memory: `at_a_time` pieces.
    may_commit: called right before the manifest is put, go_on before every piece; what they raise prevents it.
    OtherContentError: another folder has the name. DamagedCheckpointError: a file is not what was sealed; nothing is
    committed. StorageError: the archive could not be asked, or did not do it.
    """
    manifest = Manifest.parse((folder / MANIFEST).read_bytes(), where=str(folder / MANIFEST))
    upload = _Upload(
        archive=archive, folder=folder, attempt=uuid4().hex[:8], go_on=go_on, at_a_time=at_a_time
    )  # fmt: skip
    if _is_there(archive, folder, manifest):
        upload.put_back(manifest.files, upload.stored())
        return False
    if manifest.base is not None:
        push(archive, folder.parent / manifest.base, go_on=go_on, at_a_time=at_a_time)
    began = time.monotonic()
    num_bytes = upload.put(manifest.files, upload.stored(since=_trusted_since()))
    may_commit()
    made = archive.objects.create(archive.manifest_key(folder), manifest.content)
    if not made and not _is_there(archive, folder, manifest):
        raise StorageError(f"{archive.uri_of(folder)} went while it was archived; run the same again")
    # Who clears pieces without a manifest may have looked before this one was there: whatever was so old by then is
    # old now, and is put under another name, whenever this process was stopped, and for however long.
    upload.put_back(manifest.files, upload.stored(since=_trusted_since()))
    if made:
        log.info("archived %s bytes=%d in %.2f s", archive.uri_of(folder), num_bytes, time.monotonic() - began)
    return made


def _trusted_since() -> datetime:
    """Pieces from before may be cleared while there is no manifest."""
    return datetime.now(UTC) - GRACE / 2


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """One attempt at a folder."""

    archive: Archive
    folder: Path
    attempt: str
    go_on: Callable[[], None]
    at_a_time: int

    def stored(self, *, since: datetime | None = None) -> dict[str, dict[int, int]]:
        """By SHA-256 and number, the bytes of the pieces that are there, or were put after `since`."""
        return {
            sha256: {
                number: piece.num_bytes for number, piece in pieces.items() if since is None or piece.modified > since
            }
            for sha256, pieces in self.archive.pieces(self.folder).items()
        }

    def put(self, files: Sequence[File], stored: Mapping[str, Mapping[int, int]]) -> int:
        """Read every file, and put its pieces that are not stored; how many bytes the files have.
        DamagedCheckpointError: a file is not what was sealed; nothing that was put here stays."""
        try:
            return self._put(files, stored)
        except DamagedCheckpointError:  # the next attempt would trust pieces under the right name, of the right length
            pieces = self.archive.objects.under(self.archive.key_of(self.folder))
            self.archive.objects.delete([piece.key for piece in pieces if piece.key.endswith(f"-{self.attempt}")])
            raise

    def _put(self, files: Sequence[File], stored: Mapping[str, Mapping[int, int]]) -> int:
        def put(piece: _Piece) -> None:
            self.go_on()
            if stored.get(piece.file.sha256, {}).get(piece.number) != len(piece.content):
                key = self.archive.piece_key(self.folder, piece.file, piece.number, attempt=self.attempt)
                self.archive.objects.put(key, piece.content)

        pool = ThreadPoolExecutor(self.at_a_time, thread_name_prefix="upload")
        try:
            put_pieces = in_order(pool, put, _cut(self.archive, self.folder, files), ahead=self.at_a_time)
            return sum(len(piece.content) for piece, _ in put_pieces)
        finally:
            pool.shutdown(cancel_futures=True)

    def put_back(self, files: Sequence[File], stored: Mapping[str, Mapping[int, int]]) -> None:
        """The same for files of which not all is stored; the others are not read."""
        missing = [file for file in files if sum(stored.get(file.sha256, {}).values()) != file.num_bytes]
        if missing:
            log.warning("%d files of %s had gone there: put again", len(missing), self.archive.uri_of(self.folder))
            self.put(missing, stored)


def _is_there(archive: Archive, folder: Path, manifest: Manifest) -> bool:
    found = archive.objects.get(archive.manifest_key(folder))
    if found is None:
        return False
    if bytes(found) != manifest.content:
        raise OtherContentError(
            f"{archive.uri_of(folder)} is another one than {folder}: somebody else's was archived first, and stays; "
            "delete the folder here, and run its step again, to have that one"
        )
    return True


def _cut(archive: Archive, folder: Path, files: Sequence[File]) -> Iterator[_Piece]:
    """Every file's pieces, and an error after the last where the file is not what was sealed."""
    for file in files:
        digest = hashlib.sha256()
        with (folder / file.name).open("rb") as opened:
            number = 0
            while content := opened.read(archive.piece_bytes):
                digest.update(content)
                yield _Piece(file, number, content)
                number += 1
        _require(digest.hexdigest(), folder, file)


def _require(found: str, folder: Path, file: File) -> None:
    if found != file.sha256:
        raise DamagedCheckpointError(
            f"{folder / file.name} has SHA-256 {found[:12]}…, {MANIFEST} says {file.sha256[:12]}…; it is not archived: "
            "delete its directory and train that day again"
        )
