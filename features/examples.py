"""The day's examples, its rejected rows and its user features: three partitions of one fingerprint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from features.arrow import examples_schema, user_features_schema
from features.days import day_before
from features.fingerprint import file_sha256, fingerprint
from features.lake import Lake, Partition
from features.packing import pack, unpack
from features.schema import SIDES, USER_ID
from features.source import Landed, LogReader, Source
from infra.settings import Settings

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Raised when code changes what a day's partitions hold for the same log."""


@dataclass(frozen=True, kw_only=True)
class BuiltDay:
    """One day in the lake. `num_rows` = `num_accepted` + `num_rejected`; `reasons` counts the rejected."""

    ds: date
    examples: Partition
    user_features: Partition
    rejected: Partition
    num_rows: int
    num_accepted: int
    num_rejected: int
    num_examples: int
    num_users: int
    reasons: dict[str, int]
    unchanged: bool


def build_examples(source: Source, ds: date, *, settings: Settings, reject_max_share: float) -> BuiltDay:
    """Validate the log of `ds` and write `examples_rejected`, `user_features` and `examples`, in this order.

    Reads the log of ds and the user state of the days before ds, nothing later. Each partition is committed
    whole under the fingerprint of all inputs: running again changes nothing, and a run that was killed is
    completed by the next one. Examples come last: where they are, the rest is.

    FileNotFoundError: the log is missing. ValueError: the log is not of the schema; or has no valid row, or
    more rejected rows than `reject_max_share` of it: then only `examples_rejected` is written.
    """
    reader = source.open(landing=settings.landing, data_dir=settings.data_dir)
    lake = Lake(settings.lake)
    files = reader.log_files(ds)
    states = _state_partitions(lake, source, ds, reader.state_days)
    key = fingerprint(
        LAYOUT_VERSION,
        source,
        ds,
        [(path.name, file_sha256(path)) for path in files],
        [(state.ds, state.fingerprint) for state in states],
        *(f"packed {side}" for side in SIDES if source.schema.is_packed(side)),
    )
    landed = reader.read(ds)
    tables = [f"{kind}/{source.name}" for kind in ("examples_rejected", "user_features", "examples")]
    unchanged = all(_has(lake, table, ds, key) for table in tables)
    rejected = lake.commit(tables[0], ds, landed.rejected, fingerprint=key)
    reasons = _require_enough(landed, source, ds, reject_max_share)
    users, examples = (
        [lake.get(table, ds) for table in tables[1:]]
        if unchanged
        else _write(lake, source, reader, ds, landed=landed, states=states, key=key)
    )
    built = BuiltDay(
        ds=ds,
        examples=examples,
        user_features=users,
        rejected=rejected,
        num_rows=landed.num_rows,
        num_accepted=landed.accepted.num_rows,
        num_rejected=landed.rejected.num_rows,
        num_examples=lake.dataset(examples).count_rows(),
        num_users=lake.dataset(users).count_rows(),
        reasons=reasons,
        unchanged=unchanged,
    )
    log.info(
        "built source=%s ds=%s rows=%d accepted=%d rejected=%d examples=%d users=%d unchanged=%s",
        source.name, ds, built.num_rows, built.num_accepted, built.num_rejected, built.num_examples,
        built.num_users, unchanged,
    )  # fmt: skip
    return built


def read_state(lake: Lake, partitions: list[Partition]) -> pa.Table | None:
    """The newest row of every user over user_features `partitions`, a column per feature; None where there are
    none."""
    newest_first = sorted(partitions, key=lambda partition: partition.ds, reverse=True)
    parts: list[pa.Table] = []
    seen = pa.array([], pa.int64())
    for partition in newest_first:
        rows = unpack(lake.read(partition))
        if len(seen):
            rows = rows.filter(pc.invert(pc.is_in(rows[USER_ID], value_set=seen)))
        seen = pa.concat_arrays([seen, rows[USER_ID].combine_chunks()])
        parts.append(rows)
    return pa.concat_tables(parts) if parts else None


def _state_partitions(lake: Lake, source: Source, ds: date, days: int) -> list[Partition]:
    """The user_features of the `days` days before ds, oldest first."""
    table = f"user_features/{source.name}"
    if days < 1:
        return []
    earlier = [day for day in lake.days(table) if day < ds]
    if earlier and earlier[-1] != day_before(ds):
        log.warning(
            "source=%s ds=%s: user_features has no %s; the newest state before the day is of %s",
            source.name, ds, day_before(ds), earlier[-1],
        )  # fmt: skip
    return [lake.get(table, day) for day in earlier if day >= ds - timedelta(days=days)]


def _has(lake: Lake, table: str, ds: date, key: str) -> bool:
    partition = lake.find(table, ds)
    return partition is not None and key.startswith(partition.fingerprint)


def _require_enough(landed: Landed, source: Source, ds: date, reject_max_share: float) -> dict[str, int]:
    reasons = dict(Counter(landed.rejected["reason"].to_pylist()).most_common())
    num_rejected, num_rows = landed.rejected.num_rows, landed.num_rows
    if landed.accepted.num_rows == 0 or num_rejected > reject_max_share * num_rows:
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        raise ValueError(
            f"{source.name} ds={ds}: {num_rejected} of {num_rows} log rows are rejected ({counts}), more "
            f"than reject_max_share {reject_max_share:.2%} allows; look at examples_rejected/{source.name}, "
            "then land a better log or raise reject_max_share. Examples and user features are as they were"
        )
    return reasons


def _write(
    lake: Lake,
    source: Source,
    reader: LogReader,
    ds: date,
    *,
    landed: Landed,
    states: list[Partition],
    key: str,
) -> list[Partition]:
    state = read_state(lake, states)
    schema = source.schema
    users = reader.user_features(landed.accepted, state).cast(user_features_schema(schema))
    stored_users, stored_examples = user_features_schema(schema, stored=True), examples_schema(schema, stored=True)
    batches = _checked(reader.examples(landed.accepted, state), examples_schema(schema))
    stream = pa.RecordBatchReader.from_batches(stored_examples, (pack(batch, stored_examples) for batch in batches))
    return [
        lake.commit(
            f"user_features/{source.name}", ds, pa.Table.from_batches([pack(users, stored_users)]), fingerprint=key
        ),
        lake.commit(f"examples/{source.name}", ds, stream, fingerprint=key),
    ]


def _checked(batches: Iterator[pa.RecordBatch], layout: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        assert batch.schema.equals(layout), f"examples are {batch.schema}, not {layout}"
        yield batch
