"""Ranges of a partition's rows, or of those that are selected, read row group by row group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from features.columns import column_of
from features.lake import Lake, Partition
from features.selection import Selection, described
from features.tables import fragments_of


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row group of one file."""

    fragment: pads.Fragment
    num_rows: int
    """That are read."""
    schema: pa.Schema
    """The table's: a column that the file lacks reads as null."""
    chosen: npt.NDArray[np.int32] | None = None
    """Places of the rows that are read; None: all of them. What a selection holds of a whole day: 4 bytes a row."""

    def read(self, columns: list[str]) -> pa.Table:
        """These columns of the rows."""
        rows = self.fragment.to_table(schema=self.schema, columns=columns, use_threads=False)
        return rows if self.chosen is None else rows.take(pa.array(self.chosen))

    def num_values(self, columns: list[str]) -> int:
        """Ids and numbers in these columns of the whole row group, as Parquet counts them (an empty list is one)."""
        (group,) = self.fragment.row_groups
        chunks = self.fragment.metadata.row_group(group.id)
        found = (chunks.column(index) for index in range(chunks.num_columns))
        wanted = set(columns)
        return sum(chunk.num_values for chunk in found if chunk.path_in_schema.partition(".")[0] in wanted)


def pieces_of(dataset: pads.Dataset, where: Sequence[Selection] = ()) -> list[Piece]:
    """Every row group of the partition, files in the order of their paths; of each, the rows that `where` selects, and
    none where it selects no row."""
    groups = [group for fragment in fragments_of(dataset) for group in fragment.split_by_row_group()]
    pieces = [Piece(fragment=group, num_rows=group.row_groups[0].num_rows, schema=dataset.schema) for group in groups]
    if not where:
        return pieces
    return [piece for piece in (_narrowed(piece, where) for piece in pieces) if piece.num_rows]


def examples_of(lake: Lake, partition: Partition, where: Sequence[Selection] = ()) -> list[Piece]:
    """The same of a day of examples. ValueError, which names the day, where nothing is selected or nothing can be."""
    dataset, day = lake.dataset(partition), f"{partition.table} ds={partition.ds}"
    try:
        pieces = pieces_of(dataset, where)
    except ValueError as error:
        raise ValueError(f"{day}: {error}") from error
    if not sum(piece.num_rows for piece in pieces):
        of = f" where {described(where)}" if where else ""
        raise ValueError(f"{day} has no rows{of}; no example is left")
    return pieces


def selected(rows: pa.Table | pa.RecordBatch, where: Sequence[Selection]) -> npt.NDArray[np.bool_]:
    """[rows]: whether every selection holds. ValueError for a label without a value, a feature that has not one id."""
    kept = np.ones(rows.num_rows, dtype=np.bool_)
    for one in where:
        kept &= np.isin(_single_values(column_of(rows, one.column), one.column), one.values)
    return kept


def _narrowed(piece: Piece, where: Sequence[Selection]) -> Piece:
    names = sorted({one.column for one in where})
    if unknown := [name for name in names if name not in piece.schema.names]:
        raise ValueError(f"examples are selected by {unknown}, columns that the table lacks; build the day again")
    chosen = np.flatnonzero(selected(piece.read(names), where)).astype(np.int32)
    return piece if len(chosen) == piece.num_rows else replace(piece, num_rows=len(chosen), chosen=chosen)


def _single_values(column: pa.Array, name: str) -> npt.NDArray[np.int64]:
    is_list = pa.types.is_list(column.type)
    lengths = pc.min_max(pc.list_value_length(column)).as_py() if is_list and len(column) else {"min": 1, "max": 1}
    if column.null_count or lengths != {"min": 1, "max": 1}:
        raise ValueError(
            f"column {name} has rows of no value or of several ({column.null_count} nulls of {len(column)} rows); "
            "examples are selected by what has one value in every row"
        )
    values: npt.NDArray[np.int64] = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
    return values


class Windows:
    """Reads ranges of the concatenated pieces, keeping the last piece for the range that continues it."""

    def __init__(self, pieces: Sequence[Piece], columns: list[str]) -> None:
        self._pieces = pieces
        self._columns = columns
        self._starts = np.concatenate([[0], np.cumsum([piece.num_rows for piece in pieces])])
        self._cached: tuple[int, pa.Table] | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop)."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for index in range(first, len(self._pieces)):
            low, high = int(self._starts[index]), int(self._starts[index + 1])
            if low >= stop:
                break
            begin, end = max(start, low), min(stop, high)
            parts.append(self._load(index).slice(begin - low, end - begin))
        return pa.concat_tables(parts or [self._load(len(self._pieces) - 1).slice(0, 0)])

    def _load(self, index: int) -> pa.Table:
        if self._cached is None or self._cached[0] != index:
            table = self._pieces[index].read(self._columns)
            self._cached = (index, table)
        return self._cached[1]
