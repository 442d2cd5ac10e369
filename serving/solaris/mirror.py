"""What was served, as a table: the rows that a downstream model learns from see the gaps that its requests saw.

A day of the readers' log (`serving.solaris.log`) becomes a partition of the lake's `served_pairs/<model>`: user, item,
when, the level, the version, and the very vector that was served. Joined to a day's examples by user, item and time
(`serving.solaris.served`) it is what training has to see: a pair that was served zeros is learnt from with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import redis
from numpy.typing import NDArray

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import USER_ID
from features.validation import day_bounds
from serving.solaris.log import FIELD, HEAD, pair_type
from serving.solaris.store import PairStore

_READS_PER_PAGE = 500
_BEHIND = timedelta(hours=1)
"""A read's entry comes so much later than it was served, at most, or earlier by a clock that is wrong."""
_Name = tuple[int, int]
"""Of a read: its reader's, and its number there."""
ITEM_ID, SERVED_TIME = "item_id", "served_time"
SCHEMA = pa.schema(
    [
        pa.field(USER_ID, pa.int64(), nullable=False),
        pa.field(ITEM_ID, pa.int64(), nullable=False),
        pa.field(SERVED_TIME, pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("level", pa.int8(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
        pa.field("reader", pa.int64(), nullable=False),
        pa.field("read", pa.int64(), nullable=False),
    ]
)
"""A row per pair. level: of `serving.solaris.levels.Level`; version: of the foundation model, 0 but for exact pairs.
reader and read: the name of the read, the same in all its rows."""


def table_of(model: str) -> str:
    """The lake's table."""
    return f"served_pairs/{model}"


def mirror(store: PairStore, lake: Lake, ds: date, *, day_starts_at: timedelta) -> Partition | None:
    """The reads of the source's day, by when they were served, as the table's partition: those it has already, which
    the streams may have forgotten, and what the streams hold beyond them, each once. None where there are none."""
    table = table_of(store.model.name)
    earlier = lake.find(table, ds)
    kept = SCHEMA.empty_table() if earlier is None else lake.read(earlier).select(SCHEMA.names).cast(SCHEMA)
    names = kept.select(["reader", "read"]).group_by(["reader", "read"]).aggregate([])
    known = set(zip(names["reader"].to_pylist(), names["read"].to_pylist(), strict=True))
    new = pa.Table.from_batches(_new(store, day_bounds(ds, day_starts_at), known), schema=SCHEMA)
    if not len(new):
        return earlier
    key = fingerprint("served_pairs", store.model.name, ds, sorted(known))
    return lake.commit(table, ds, pa.concat_tables([kept, new]), fingerprint=key)


def _new(store: PairStore, bounds: tuple[datetime, datetime], known: set[_Name]) -> Iterator[pa.RecordBatch]:
    """Of the reads that were served between these, those that are not `known` yet; they are from then on."""
    first_ms, end_ms = (_milliseconds(bound) for bound in bounds)
    begin, end = (str(_milliseconds(bound)) for bound in (bounds[0] - _BEHIND, bounds[1] + _BEHIND))
    for partition in range(store.keys.keys.partitions):
        after = begin
        while page := _page(store.redis, store.keys.log(partition), after, end):
            reads = []
            for _, fields in page:
                one = _Read.parse(fields.get(FIELD, b""), store.model.width)
                if one is not None and first_ms <= one.served_ms < end_ms and one.name not in known:
                    known.add(one.name)
                    reads.append(one)
            yield _rows(reads, store.model.width)
            after = f"({page[-1][0].decode()}"


def _page(client: redis.Redis, stream: str, after: str, end: str) -> Sequence[Any]:
    found: Any = client.xrange(stream, after, end, count=_READS_PER_PAGE)
    return found  # type: ignore[no-any-return]


def _milliseconds(moment: datetime) -> int:
    return int(1000 * moment.timestamp())


class _Read(NamedTuple):
    name: _Name
    user: int
    served_ms: int
    pairs: NDArray[Any]

    @staticmethod
    def parse(value: bytes, width: int) -> _Read | None:
        """An entry of the log; None for one of another width, or of another release's form."""
        kind = pair_type(width)
        if len(value) < HEAD.size or (len(value) - HEAD.size) % kind.itemsize:
            return None
        user, served_ms, of, reader, number = HEAD.unpack_from(value)
        if of != width:
            return None
        return _Read((reader, number), user, served_ms, np.frombuffer(value, kind, offset=HEAD.size))


def _rows(reads: Sequence[_Read], width: int) -> pa.RecordBatch:
    heads = np.array([(one.user, *one.name, one.served_ms) for one in reads], np.int64).reshape(-1, 4)
    counts = [len(one.pairs) for one in reads]
    users, readers, numbers, times = (np.repeat(heads[:, at], counts) for at in range(4))
    rows = np.concatenate([np.empty(0, pair_type(width)), *(one.pairs for one in reads)])
    ends = np.arange(len(rows) + 1, dtype=np.int32) * width
    columns = [
        pa.array(users),
        pa.array(rows["item"].astype(np.int64)),
        pa.array(1000 * times).cast(pa.timestamp("us", tz="UTC")),
        pa.array(rows["level"].astype(np.int8)),
        pa.array(rows["version"].astype(np.int64)),
        pa.ListArray.from_arrays(ends, rows["vector"].astype(np.float32).reshape(-1)),
        pa.array(readers),
        pa.array(numbers),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
