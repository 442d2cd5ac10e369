"""Sealed folders: written aside, checksummed, renamed into place, and never written again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from features.fingerprint import file_sha256

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class SealedError(ValueError):
    """A published snapshot is not written again."""


class DamagedError(ValueError):
    """A sealed folder's files are not those that were sealed."""


def seal(folder: Path, *, fingerprint: str, write: Callable[[Path], None]) -> str:
    """Make `folder` from the files that `write` puts into an empty one, all or nothing.

    Returns the SHA-256 of the manifest, which names the SHA-256 and size of every file. A folder sealed with
    the same fingerprint is verified and left as it is; one sealed with another raises SealedError.
    Not safe among writers of one folder: hold a lock.
    """
    if folder.exists():
        sealed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["fingerprint"]
        if sealed != fingerprint:
            raise SealedError(f"{folder} is sealed with fingerprint {sealed}; it cannot be written with {fingerprint}")
        return verify(folder)
    aside = folder.with_name(f".{folder.name}.partial")
    if aside.exists():
        log.warning("removing what an interrupted writer left path=%s", aside)
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    write(aside)
    _write_manifest(aside, fingerprint)
    for file in aside.iterdir():
        _fsync(file)
    _fsync(aside)
    freeze(aside)
    aside.rename(folder)
    _fsync(folder.parent)
    return file_sha256(folder / MANIFEST)


def freeze(folder: Path) -> None:
    """Nobody writes there by mistake."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)


def verify(folder: Path, *, manifest_sha256: str | None = None) -> str:
    """The SHA-256 of the manifest; DamagedError names the first file that is not what was sealed."""
    if not (folder / MANIFEST).is_file():
        raise DamagedError(f"{folder} has no {MANIFEST}: it is gone or was never sealed; publish again")
    found = file_sha256(folder / MANIFEST)
    if manifest_sha256 is not None and found != manifest_sha256:
        raise DamagedError(f"{folder / MANIFEST} has SHA-256 {found}; registered was {manifest_sha256}")
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    extra = sorted({file.name for file in folder.iterdir()} - set(files) - {MANIFEST})
    if extra:
        raise DamagedError(f"{folder} holds {extra}, which were not sealed with it")
    for name, sealed in files.items():
        path = folder / name
        digest = file_sha256(path) if path.is_file() else "none: the file is missing"
        if digest != sealed["sha256"]:
            raise DamagedError(
                f"{path} has SHA-256 {digest}, sealed was {sealed['sha256']}; roll back, "
                "then restore the file or train the day again"
            )
    return found


def _write_manifest(folder: Path, fingerprint: str) -> None:
    files = {
        file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in sorted(folder.iterdir())
    }
    text = json.dumps({"fingerprint": fingerprint, "files": files}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
