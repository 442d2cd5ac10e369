"""Ids to table rows, by hash or by a map of ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from features.columns import Ids
from features.hashing import hash_ids, mixed, reduce_to_rows
from features.id_map import IdMap
from features.schema import Managed, Table

ToRows = Callable[[Ids], None]
"""Replaces ids by table rows, in place."""
_CHUNK = 16_384
"""Ids looked up at a time: the passes over them stay within a core's second cache."""
_EMPTY = np.uint64(2**64 - 1)
_HASH_BITS = 64


def rows_of(table: Table, maps: Mapping[str, IdMap]) -> ToRows:
    """How the table's ids become rows. ValueError for a managed table without a map."""
    if not isinstance(table.ids, Managed):
        return partial(hash_ids, num_rows=table.num_rows)
    if table.name not in maps:
        raise ValueError(
            f"table {table.name} is managed, but no id map of it was given (known: {sorted(maps)}); "
            "read the maps that were sealed with the weights"
        )
    return MappedRows(maps[table.name], num_rows=table.num_rows, overflow_rows=table.ids.overflow_rows)


class MappedRows:
    """The owners' rows; every other id shares the last `overflow_rows` rows, by hash.

    A hash index with linear probing in the order of the hashes: an id is found, or known to be missing, at the first
    slot whose hash is not smaller. At most half of the slots are taken, so nearly always at the first.
    12 bytes per slot.
    """

    def __init__(self, id_map: IdMap, *, num_rows: int, overflow_rows: int) -> None:
        owners = id_map.owning
        if owners.rows.size and not 0 <= owners.rows.min() <= owners.rows.max() < num_rows - overflow_rows:
            raise ValueError(
                f"the id map gives rows {owners.rows.min()} to {owners.rows.max()}; "
                f"the table has {num_rows}, of which {overflow_rows} are nobody's"
            )
        self._overflow_start, self._overflow_rows = num_rows - overflow_rows, np.uint64(overflow_rows)
        hashes = mixed(owners.ids)
        order = np.argsort(hashes)
        hashes, places = hashes[order], np.arange(hashes.size)
        bits = max((2 * hashes.size).bit_length(), 4)
        self._shift = np.uint64(_HASH_BITS - bits)
        home = (hashes >> self._shift).astype(np.int64)
        slots = np.maximum.accumulate(home - places) + places if places.size else places
        size = max(2**bits, int(slots[-1]) + 1 if slots.size else 0) + 1
        self._hashes = np.full(size, _EMPTY)
        self._rows = np.full(size, -1, dtype=np.int32)
        self._hashes[slots], self._rows[slots] = hashes, owners.rows[order]

    def __call__(self, ids: Ids) -> None:
        """Replace ids by rows, in place."""
        for begin in range(0, ids.size, _CHUNK):
            self._replace(ids[begin : begin + _CHUNK])

    def _replace(self, ids: Ids) -> None:
        hashes = mixed(ids)
        slots = (hashes >> self._shift).astype(np.int64)
        found = self._hashes.take(slots)
        ids[:] = self._rows.take(slots)
        differs = np.flatnonzero(found != hashes)
        ids[differs] = -1
        wanted, slots, found = hashes[differs], slots[differs], found[differs]
        while differs.size:
            further = found < wanted
            differs, wanted, slots = differs[further], wanted[further], slots[further] + 1
            found = self._hashes.take(slots)
            hit = found == wanted
            ids[differs[hit]] = self._rows.take(slots[hit])
        missing = np.flatnonzero(ids < 0)
        shared = hashes[missing]
        reduce_to_rows(shared, self._overflow_rows, np.empty_like(shared))
        ids[missing] = self._overflow_start + shared.astype(np.int64)
