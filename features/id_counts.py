"""How often each id occurs in a day, by table: known before the pass begins, and never from a label but one that
selects the examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Ids, column_of
from features.lake import Lake, Partition
from features.packing import packed_lists
from features.schema import SIDES, Schema, packed_columns
from features.selection import Selection
from features.windows import examples_of

_BATCH_ROWS = 65_536
_PENDING = 1_000_000
"""Distinct ids of single batches that wait to be merged, at least."""


@dataclass(frozen=True, kw_only=True)
class IdCounts:
    """Ascending ids [n], and how often each occurred [n]."""

    ids: Ids
    counts: Ids

    @property
    def num_lookups(self) -> int:
        """Occurrences of all ids."""
        return int(self.counts.sum())


def count_ids(
    lake: Lake, partition: Partition, schema: Schema, *, where: Sequence[Selection] = ()
) -> dict[str, IdCounts]:
    """The ids of every table of the schema, over all features of both sides that look them up, in the examples that
    `where` selects: a row of one's own is for what is learnt.

    Reads the partition once, row group by row group. Memory: 16 bytes per distinct id and as much again while batches
    are merged. Ids that no row can hold (nulls, negative ones) are left out: the reader names them. ValueError where no
    example is left.
    """
    counters = {table.name: _Counter() for table in schema.tables}
    pieces = examples_of(lake, partition, where)
    present = set(pieces[0].schema.names)
    columns = [name for name in _columns(schema) if name in present]  # the reader names the others
    for piece in pieces:
        for batch in piece.read(columns).to_batches(max_chunksize=_BATCH_ROWS):
            for name, ids in _ids_by_feature(batch, schema):
                counters[name].add(ids)
    return {name: counter.result() for name, counter in counters.items()}


def _columns(schema: Schema) -> Iterator[str]:
    for side in SIDES:
        if schema.is_packed(side):
            yield from packed_columns(side)[:2] if schema.sparse_of(side) else ()
        else:
            yield from (feature.name for feature in schema.sparse_of(side))


def _ids_by_feature(batch: pa.RecordBatch, schema: Schema) -> Iterator[tuple[str, pa.Array]]:
    """(table, ids) of every feature that the batch has."""
    every_row = np.arange(batch.num_rows)
    for side in SIDES:
        if packed_columns(side)[0] in batch.schema.names:
            lists = packed_lists(batch, side)
            for feature in schema.sparse_of(side):
                if feature.name in lists:
                    ids, _ = lists[feature.name].take(lists[feature.name].places(every_row))
                    yield feature.table, pa.array(ids)
            continue
        for feature in schema.sparse_of(side):
            if feature.name in batch.schema.names:
                yield feature.table, column_of(batch, feature.name).flatten()


class _Counter:
    """Adds up batches; what waits is merged when it is as large as what is merged."""

    def __init__(self) -> None:
        self._merged = IdCounts(ids=np.empty(0, dtype=np.int64), counts=np.empty(0, dtype=np.int64))
        self._pending: list[IdCounts] = []
        self._num_pending = 0

    def add(self, ids: pa.Array) -> None:
        counted = pc.value_counts(ids)
        values = counted.field("values")
        kept = pc.greater_equal(values, 0)
        if pc.all(kept, skip_nulls=False).as_py() is not True:
            counted = counted.filter(kept)  # a null is not kept
        self._pending.append(
            IdCounts(ids=counted.field("values").to_numpy(), counts=counted.field("counts").to_numpy())
        )
        self._num_pending += len(counted)
        if self._num_pending > max(_PENDING, self._merged.ids.size):
            self._merge()

    def result(self) -> IdCounts:
        self._merge()
        return self._merged

    def _merge(self) -> None:
        parts = [self._merged, *self._pending]
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        counts = np.concatenate([part.counts for part in parts])[order]
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        if first.size:
            self._merged = IdCounts(ids=ids[first], counts=np.add.reduceat(counts, first))
        self._pending, self._num_pending = [], 0
