"""Data files that nothing refers to: what a killed writer left, what was withdrawn, what was cleared."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pyarrow.fs import FileSelector, FileType

from features.checksums import FOLDER
from features.lake import Lake, Partition
from features.schema import DS
from features.storage import table_files

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What went from one table, or would."""

    table: str
    files: tuple[str, ...]
    num_bytes: int


def sweep(lake: Lake, table: str, *, keep: Iterable[Partition], before: datetime, dry_run: bool = False) -> Swept:
    """Delete the files that neither the newest version of `table` nor one of `keep` reads, and that were written before
    `before` (a younger one may be about to be committed). Earlier table versions can then no longer be read, but for
    the partitions in `keep`. A table that is not there holds nothing.
    """
    if (delta := lake.open(table)) is None:
        return Swept(table=table, files=(), num_bytes=0)
    partitions = [partition for partition in keep if partition.table == table]
    read = {_name(uri) for uri in [*delta.file_uris(), *(uri for part in partitions for uri in lake.files(part))]}
    files = table_files(lake.uri(table))
    found = [
        info
        for info in files.get_file_info(FileSelector("", recursive=True))
        if info.type is FileType.File
        and info.path.startswith(f"{DS}=")
        and _name(info.path) not in read
        and (info.mtime or datetime.now(UTC)) < before
    ]
    for info in [] if dry_run else found:
        files.delete_file(info.path)
        checksum = f"{FOLDER}/{info.path}.sha256"
        if files.get_file_info(checksum).type is FileType.File:
            files.delete_file(checksum)
    swept = Swept(table=table, files=tuple(info.path for info in found), num_bytes=sum(info.size for info in found))
    log.info("swept table=%s files=%d bytes=%d dry_run=%s", table, len(found), swept.num_bytes, dry_run)
    return swept


def _name(path: str) -> str:
    """`ds=…/part-….parquet`, however the path begins."""
    return "/".join(path.split("/")[-2:])
