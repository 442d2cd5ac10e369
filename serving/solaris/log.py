"""What was served, pair by pair: the rows that a downstream model learns from see the gaps that its requests saw.

A reader appends an entry per read to a stream in the store, after the answer; the stream keeps the newest reads alone.
`mirror` makes a day of it a partition of the lake's table `served_pairs/<model>`: user, item, when, the level, the
version, and the very vector that was served. Joined to a day's examples by user, item and time, it is what training
has to see (a pair that was served zeros is learnt from with zeros).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.solaris.answer import PairAnswer
from serving.solaris.store import PairStore

ITEM_ID, SERVED_TIME, LEVEL, VERSION, VECTOR = "item_id", "served_time", "level", "version", "vector"
_HEAD = struct.Struct("<qqI")
"""User, served time, E."""
_READS_PER_PAGE = 500


def table_of(model: str) -> str:
    """The lake's table."""
    return f"served_pairs/{model}"


def schema_of() -> pa.Schema:
    """A row per pair served. level: of `serving.solaris.levels.Level`; version: 0 but for exact pairs."""
    return pa.schema(
        [
            pa.field(USER_ID, pa.int64(), nullable=False),
            pa.field(ITEM_ID, pa.int64(), nullable=False),
            pa.field(SERVED_TIME, pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field(LEVEL, pa.int8(), nullable=False),
            pa.field(VERSION, pa.int64(), nullable=False),
            pa.field(VECTOR, pa.list_(pa.float32()), nullable=False),
        ]
    )


def append(store: PairStore, answers: Sequence[PairAnswer], *, longest: int) -> None:
    """Log these reads; of each partition the newest `longest` are kept, or a few more. One round trip."""
    pipeline: Any
    with store.redis.pipeline(transaction=False) as pipeline:
        for answer in answers:
            partition = store.keys.keys.partition(answer.user)
            pipeline.xadd(store.keys.log(partition), {b"r": _packed(answer)}, maxlen=longest, approximate=True)
        pipeline.execute()


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
    rows = pa.Table.from_batches(_batches(store, streams, bounds), schema=schema_of())
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
            yield _rows([fields[b"r"] for _, fields in page], store.model.width)
            begin = f"({page[-1][0].decode()}"


def _type(width: int) -> np.dtype[Any]:
    return np.dtype([("item", "<i8"), ("level", "u1"), ("version", "<u4"), ("vector", "<f2", (width,))])


def _packed(answer: PairAnswer) -> bytes:
    rows = np.zeros(len(answer.items), _type(answer.vectors.shape[1]))
    rows["item"], rows["level"], rows["version"] = answer.items, answer.levels, answer.versions
    rows["vector"] = answer.vectors
    return _HEAD.pack(answer.user, answer.served_ms, answer.vectors.shape[1]) + rows.tobytes()


def _rows(entries: Sequence[bytes], width: int) -> pa.RecordBatch:
    """Entries of another width are left out."""
    kind, found = _type(width), [(_HEAD.unpack_from(one), one[_HEAD.size :]) for one in entries]
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
    return pa.RecordBatch.from_arrays(columns, schema=schema_of())
