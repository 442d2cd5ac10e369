"""Lands the synthetic world's logs and reads them back like anybody's."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.arrow import examples_schema, user_features_schema
from features.fingerprint import fingerprint
from features.schema import EVENT_TIME, USER_ID
from features.source import Landed
from features.sources.synthetic import SyntheticWorld
from features.sources.synthetic_world import EVENT_ID, World, log_layout
from features.validation import day_bounds, faults, quarantine, require_layout

log = logging.getLogger(__name__)

_MADE_BY = b"usermodel.source"
_BATCH_ROWS = 16_384


class SyntheticLog:
    """The logs of one world, `landing/<name>/ds=…/log.parquet`: made once, then only read."""

    state_days = 0

    def __init__(self, config: SyntheticWorld, *, landing: Path) -> None:
        self.config = config
        self.folder = landing / config.name

    def log_files(self, ds: date) -> list[Path]:
        """The landed log of the day; made first if it has not landed."""
        path = self.folder / f"ds={ds}" / "log.parquet"
        if not path.exists():
            self._land(ds, path)
        return [path]

    def _land(self, ds: date, path: Path) -> None:
        table = World(self.config).log(ds)
        made_by = {_MADE_BY: fingerprint(self.config).encode()}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".log-", suffix=".parquet")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(
                    table.replace_schema_metadata(made_by), file, compression="lz4", write_page_checksum=True
                )
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        log.info("landed source=%s ds=%s rows=%d file=%s", self.config.name, ds, table.num_rows, path)

    def read(self, ds: date) -> Landed:
        """The day's log. ValueError: not Parquet, of another world, not of the schema, or without rows."""
        (path,) = self.log_files(ds)
        try:
            found = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({error}); delete it and run the day again") from error
        made_by = (found.schema.metadata or {}).get(_MADE_BY)
        if made_by is not None and made_by != fingerprint(self.config).encode():
            raise ValueError(
                f"{path} was made by another config of source {self.config.name!r}; "
                "give the changed config a name of its own, or delete the file to have it made anew"
            )
        layout = log_layout(self.config)
        require_layout(found.schema, layout, file=path)
        if found.num_rows == 0:
            raise ValueError(f"{path} has no rows; land the log of {ds} again, or delete the file to have it made")
        table = found.select(layout.names).combine_chunks()
        bounds = day_bounds(ds, self.config.day_starts_at)
        reasons = faults(table, self.config.schema, key=EVENT_ID, bounds=bounds)
        accepted, rejected = quarantine(table, reasons, file=path)
        if np.any(np.diff(accepted[EVENT_TIME].cast(pa.int64()).to_numpy()) < 0):
            accepted = accepted.sort_by([(EVENT_TIME, "ascending"), (EVENT_ID, "ascending")])
        return Landed(accepted=accepted, rejected=rejected)

    def examples(self, accepted: pa.Table, state: pa.Table | None) -> Iterator[pa.RecordBatch]:
        """The log as it is: features were logged with the request. `state` is not used."""
        layout = examples_schema(self.config.schema)
        yield from accepted.select(layout.names).cast(layout).to_batches(max_chunksize=_BATCH_ROWS)

    def user_features(self, accepted: pa.Table, state: pa.Table | None) -> pa.Table:
        """Each active user's newest logged features of the day. `state` is not used."""
        layout = user_features_schema(self.config.schema)
        users = accepted[USER_ID].to_numpy()
        _, from_end = np.unique(users[::-1], return_index=True)
        newest = len(users) - 1 - from_end
        return accepted.select(layout.names).take(pa.array(newest)).cast(layout)
