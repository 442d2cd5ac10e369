"""What was served, as a table: the rows that a downstream model learns from see the gaps that its requests saw.

A day of the readers' log (`serving.solaris.log`) becomes a partition of the lake's `served_pairs/<model>`: user, item,
when, the level, the version, and the very vector that was served. Joined to a day's examples by user, item and time it
is what training has to see: a pair that was served zeros is learnt from with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.solaris.log import FIELD, HEAD, pair_type
from serving.solaris.store import PairStore

_READS_PER_PAGE = 500
SCHEMA = pa.schema(
    [
        pa.field(USER_ID, pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("served_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("level", pa.int8(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)
"""A row per pair. level: of `serving.solaris.levels.Level`; version: of the foundation model, 0 but for exact pairs."""


def table_of(model: str) -> str:
    """The lake's table."""
    return f"served_pairs/{model}"


def mirror(store: PairStore, lake: Lake, ds: date) -> Partition | None:
    """The day's reads that the streams hold, as the table's partition; None where there are none. A day is the store's:
    of when a read's entry came. Again: what came since is added, unless the streams have forgotten what the partition
    has; then it stays."""
    begin = datetime(ds.year, ds.month, ds.day, tzinfo=UTC)
    first, end = (int(1000 * (begin + timedelta(days=days)).timestamp()) for days in (0, 1))
    bounds = str(first), str(end - 1)
    streams = [store.keys.log(partition) for partition in range(store.keys.keys.partitions)]
    marks = [_marks(store.redis, stream, bounds) for stream in streams]
    table = table_of(store.model.name)
    earlier, key = lake.find(table, ds), fingerprint("served_pairs", store.model.name, ds, marks)
    if not any(marks) or (earlier is not None and earlier.fingerprint == key):
        return earlier
    rows = pa.Table.from_batches(_batches(store, streams, bounds), schema=SCHEMA)
    if earlier is not None and rows.num_rows <= lake.num_rows(earlier):
        return earlier
    return lake.commit(table, ds, rows, fingerprint=key)


def _marks(client: redis.Redis, stream: str, bounds: tuple[str, str]) -> list[str]:
    """The ids of the first and the last entry."""
    first: Any = client.xrange(stream, *bounds, count=1)
    last: Any = client.xrevrange(stream, bounds[1], bounds[0], count=1)
    return [one[0].decode() for one in (*first, *last)]


def _batches(store: PairStore, streams: Sequence[str], bounds: tuple[str, str]) -> Iterator[pa.RecordBatch]:
    for stream in streams:
        begin = bounds[0]
        while True:
            page: Any = store.redis.xrange(stream, begin, bounds[1], count=_READS_PER_PAGE)
            if not page:
                break
            yield _rows([fields[FIELD] for _, fields in page], store.model.width)
            begin = f"({page[-1][0].decode()}"


def _rows(entries: Sequence[bytes], width: int) -> pa.RecordBatch:
    """Entries of another width are left out."""
    kind, found = pair_type(width), [(HEAD.unpack_from(one), one[HEAD.size :]) for one in entries]
    sound = [(user, served_ms, rows) for (user, served_ms, of), rows in found if of == width]
    heads = np.array([one[:2] for one in sound], np.int64).reshape(-1, 2)
    counts = [len(one[2]) // kind.itemsize for one in sound]
    rows = np.frombuffer(b"".join(one[2] for one in sound), kind)
    users, times = (np.repeat(heads[:, at], counts) for at in (0, 1))
    ends = np.arange(len(rows) + 1, dtype=np.int32) * width
    columns = [
        pa.array(users),
        pa.array(rows["item"].astype(np.int64)),
        pa.array(1000 * times).cast(pa.timestamp("us", tz="UTC")),
        pa.array(rows["level"].astype(np.int8)),
        pa.array(rows["version"].astype(np.int64)),
        pa.ListArray.from_arrays(ends, rows["vector"].astype(np.float32).reshape(-1)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
