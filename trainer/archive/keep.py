"""What a home has sealed, kept in the archive; where two machines sealed the same, the first one's is everybody's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from features.storage_errors import StorageError
from trainer.archive.archive import Archive, OtherContentError
from trainer.archive.download import bring, read
from trainer.archive.upload import push
from trainer.checkpoint import MANIFEST, discard

log = logging.getLogger(__name__)


class NotArchivedError(StorageError):
    """What was made is whole and stays in the home; the archive has not got it yet."""


def keep(
    archive: Archive | None, folder: Path, *, document: str = MANIFEST, may_commit: Callable[[], None] = lambda: None
) -> bool:
    """Have the sealed `folder` in the archive, if there is one; whether it is still the one that was sealed here.

    Where another machine's of the same fingerprint was committed first, that one takes the folder's place: the same
    inputs made both. document: the file of the folder that says the `fingerprint`. may_commit: as `push`.
    NotArchivedError: run the same step again, which makes nothing anew. OtherContentError: the fingerprints differ.
    """
    if archive is None:
        return True
    try:
        push(archive, folder, may_commit=may_commit)
        return True
    except OtherContentError:
        ours, theirs = _fingerprint(folder, document), _archived_fingerprint(archive, folder, document)
        if ours != theirs:
            raise
        log.warning("took the place of %s: another machine's, of the same inputs, was archived first", folder)
        folder.chmod(0o755)
        discard(folder)
        bring(archive, folder)
        return False
    except StorageError as error:
        raise NotArchivedError(
            f"{folder} is whole and stays, but it is not archived ({error}). Run the same step again when the storage "
            "answers: it makes nothing anew"
        ) from error


def _fingerprint(folder: Path, document: str) -> str:
    return str(json.loads((folder / document).read_bytes())["fingerprint"])


def _archived_fingerprint(archive: Archive, folder: Path, document: str) -> str | None:
    if document == MANIFEST:
        manifest = archive.manifest(folder)
        content = None if manifest is None else manifest.content
    else:
        content = read(archive, folder, document)
    return None if content is None else str(json.loads(content)["fingerprint"])
