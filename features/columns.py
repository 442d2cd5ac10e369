"""Arrow columns as NumPy sees them: whole, and with id lists that can be gathered quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ids = npt.NDArray[np.int64]
_ID_SHIFT = 3
_ID_BYTES = 1 << _ID_SHIFT


def column_of(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    """The column in one piece."""
    column = rows.column(name)
    if isinstance(column, pa.ChunkedArray):
        return (
            column.chunk(0)
            if column.num_chunks == 1
            else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
        )
    return column


def places_in(ordered: Ids, ids: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Of each of `ids` its place in `ordered`, which ascends (any where it is absent), and whether it is there."""
    if not len(ordered):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    place = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return place, ordered[place] == ids


@dataclass(frozen=True, kw_only=True)
class IdLists:
    """One feature's id lists: the list of row r is blob `first + r * stride`.

    The lists are viewed, without a copy, as byte strings: Arrow gathers those with one memcpy each, about twice
    as fast as it gathers lists (which it does id by id) or NumPy does through an index per id.
    """

    blobs: pa.Array
    """large_binary: 8 bytes per id."""
    first: int = 0
    stride: int = 1

    @classmethod
    def of_column(cls, column: pa.Array, name: str) -> IdLists:
        """A list column, sliced or not; a null list is empty. ValueError names a column with a null id."""
        if column.null_count:
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            return cls.of_offsets(
                column.flatten(), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), names=[name]
            )
        offsets = column.offsets.to_numpy() if len(column) else np.zeros(1, dtype=np.int32)
        return cls.of_offsets(column.values, offsets.astype(np.int64), names=[name])

    @classmethod
    def of_offsets(cls, ids: pa.Array, offsets: Ids, *, names: Sequence[str]) -> IdLists:
        """Lists of `ids` that begin at `offsets`, of the features `names` in turns."""
        used = ids[int(offsets[0]) : int(offsets[-1])]
        if used.null_count:
            places = np.flatnonzero(used.is_null().to_numpy(zero_copy_only=False)) + offsets[0]
            owners = (np.searchsorted(offsets, places, side="right") - 1) % len(names)
            first = int(owners.min())
            raise ValueError(
                f"column {names[first]} has {int((owners == first).sum())} null ids inside its lists; leave them out"
            )
        data = ids.buffers()[1]
        data = pa.py_buffer(b"") if data is None else data.slice(ids.offset * _ID_BYTES)
        blobs = pa.Array.from_buffers(
            pa.large_binary(), offsets.size - 1, [None, pa.py_buffer(offsets * _ID_BYTES), data]
        )
        return cls(blobs=blobs)

    def take(self, rows: pa.Array) -> tuple[Ids, Ids]:
        """The ids of these rows' lists, one list after the other, and where each begins: [rows + 1], from 0.

        Both are fresh copies. `rows` (int64, within the column) are counted in strides: see `places`.
        """
        taken = pc.take(self.blobs[self.first :], rows, boundscheck=False)
        _, offsets_buffer, data = taken.buffers()
        offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[: len(taken) + 1] >> _ID_SHIFT
        return np.frombuffer(data, dtype=np.int64)[: offsets[-1]], offsets

    def places(self, rows: Ids) -> pa.Array:
        """`rows` as `take` wants them; the same for all features of a table."""
        return pa.array(rows * self.stride)


def concatenated(lists: Sequence[IdLists]) -> IdLists:
    """All lists of the first, then all of the second, and so on; their strides are 1."""
    assert all(part.stride == 1 for part in lists)
    return IdLists(blobs=pa.concat_arrays([part.blobs for part in lists]))
