"""The items on offer, in memory: the newest item-side features of every item that the examples of some days show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.batches import Encoder
from features.columns import Ids
from features.lake import Lake, Partition
from features.schema import Schema
from features.windows import Piece, pieces_of
from serving.solaris.impressions import items_of


class ItemCatalogue:
    """A `serving.solaris.interfaces.Catalogue`. ids: [I], ascending; rows: [I], the item side of each."""

    def __init__(self, ids: Ids, rows: pa.RecordBatch) -> None:
        assert len(ids) == rows.num_rows, f"{len(ids)} ids of {rows.num_rows} rows"
        assert bool((np.diff(ids) > 0).all()), "ids ascend"
        self.ids, self._rows = ids, rows

    @classmethod
    def of_days(cls, lake: Lake, examples: Sequence[Partition], *, schema: Schema, item: str) -> ItemCatalogue:
        """From partitions of `examples/<source>`, whatever their order; an item's features are those of its newest
        example. item: the feature whose one id tells items apart.

        What is read is all that it knows: give it the days before the one that it serves, and nothing leaks. A row
        group is in memory at a time, and a row per item. ValueError: `item` is no item-side feature with a column of
        its own, or an example has not one id of it.
        """
        names = [feature.name for feature in schema.sparse_of("item")]
        if item not in names or schema.is_packed("item"):
            raise ValueError(f"{item} is no item-side feature with a column of its own; known: {sorted(names)}")
        columns = Encoder(schema, sides=("item",)).columns
        ids, parts = np.empty(0, np.int64), list[pa.Table]()
        newest_first = sorted(examples, key=lambda partition: partition.ds, reverse=True)
        for piece in (piece for day in newest_first for piece in reversed(pieces_of(lake.dataset(day)))):
            found, rows = _newest_of(piece, columns, item=item, but=ids)
            ids = np.concatenate([ids, found])
            parts.append(rows)
        if not parts:
            raise ValueError("a catalogue is made of at least one day of examples")
        together = pa.concat_tables(parts).take(pa.array(np.argsort(ids))).combine_chunks()
        batches = together.to_batches()
        empty = pa.RecordBatch.from_pylist([], schema=together.schema)
        return cls(np.sort(ids), batches[0] if batches else empty)

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, items: Ids) -> NDArray[np.bool_]:
        """[N]: which of them have features."""
        return np.isin(items, self.ids)

    def places(self, items: Ids) -> Ids:
        """[N]: where known items are among `ids`. ValueError names one that is not known."""
        if not self.known(items).all():
            raise ValueError(f"item {items[~self.known(items)][0]} is not among the {len(self)} of the catalogue")
        return np.searchsorted(self.ids, items)

    def rows(self, items: Ids | None = None) -> pa.RecordBatch:
        """The item side of each, in this order, or of all; ValueError names one that is not known."""
        return self._rows if items is None else self._rows.take(pa.array(self.places(items)))


def _newest_of(piece: Piece, columns: Sequence[str], *, item: str, but: Ids) -> tuple[Ids, pa.Table]:
    """The last row of every item of the row group, without items of `but`."""
    rows = piece.read(list(columns))
    ids = items_of(rows, item)
    distinct, from_end = np.unique(ids[::-1], return_index=True)
    new = ~np.isin(distinct, but)
    last = len(ids) - 1 - from_end[new]
    return distinct[new], rows.take(pa.array(last))
