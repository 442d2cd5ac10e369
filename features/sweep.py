"""Data files that nothing refers to: what a killed writer left, what was withdrawn, what was cleared."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from features.checksums import FOLDER
from features.lake import Lake, Partition
from features.schema import DS
from features.storage import table_files
from features.tables import name_of
from features.unfinished_uploads import give_up, unfinished_uploads

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What went from one table, or would."""

    table: str
    files: tuple[str, ...]
    num_bytes: int
    uploads: tuple[str, ...] = ()
    """To object storage, that nobody finished."""


def sweep(lake: Lake, table: str, *, keep: Iterable[Partition], before: datetime, dry_run: bool = False) -> Swept:
    """Delete the files that neither the newest version of `table` nor one of `keep` reads, and that were written before
    `before` (a younger one may be about to be committed). Earlier table versions can then no longer be read, but for
    the partitions in `keep`. A table that is not there holds nothing.
    """
    if (delta := lake.open(table)) is None:
        return Swept(table=table, files=(), num_bytes=0)
    partitions = [partition for partition in keep if partition.table == table]
    read = {name_of(uri) for uri in [*delta.file_uris(), *(uri for part in partitions for uri in lake.files(part))]}
    files = table_files(lake.uri(table))
    found = [
        file
        for file in files.list("")
        if file.path.startswith(f"{DS}=") and name_of(file.path) not in read and file.modified < before
    ]
    for file in [] if dry_run else found:
        files.delete(file.path)
        files.delete(f"{FOLDER}/{file.path}.sha256")
    uri = lake.uri(table)
    uploads = [upload for upload in unfinished_uploads(uri) if upload.begun < before]
    for upload in [] if dry_run else uploads:
        give_up(uri, upload)
    swept = Swept(
        table=table,
        files=tuple(file.path for file in found),
        num_bytes=sum(file.size for file in found),
        uploads=tuple(upload.key for upload in uploads),
    )
    log.info("swept table=%s files=%d bytes=%d dry_run=%s", table, len(found), swept.num_bytes, dry_run)
    return swept
