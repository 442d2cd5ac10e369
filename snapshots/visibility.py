"""What consumers see: the table `user_embeddings/<model>` holds a day exactly while a version of it is promoted.

Candidates are embedded into a table of their own. Promotion makes a candidate's files, the same bytes, the day of the
consumers' table in one commit; a rollback puts back the files that were the day before. So whoever reads the newest
table version, with whatever reader, never meets a vector that nobody promoted.
"""

from __future__ import annotations

import logging

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from snapshots.embeddings import table_of
from snapshots.registry import Registry, Version

log = logging.getLogger(__name__)


def show(version: Version, lake: Lake) -> Partition:
    """Make the version's candidate embeddings the day of the consumers' table."""
    assert version.embeddings is not None, "a version without embeddings is not promotable"
    return lake.share(
        version.embeddings,
        table_of(version.model),
        metadata={"version": version.number, "model_fingerprint": version.fingerprint},
    )


def withdraw(version: Version, registry: Registry, lake: Lake) -> Partition:
    """Take the version's day back: to the files of the version of that day that was promoted before, or to no rows."""
    table = table_of(version.model)
    before = registry.promoted_on(version.model, version.ds, below=version.number)
    if before is not None:
        return show(before, lake)
    log.info("withdrawn model=%s ds=%s version=%d", version.model, version.ds, version.number)
    return lake.clear(
        table,
        version.ds,
        fingerprint=fingerprint("withdrawn", version.model, version.number, version.fingerprint),
        metadata={"withdrawn_version": version.number},
    )
