"""Ranges of a partition's rows, read row group by row group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from features.lake import fragments_of


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row group of one file."""

    fragment: pads.Fragment
    num_rows: int
    schema: pa.Schema
    """The table's: a column that the file lacks reads as null."""

    def read(self, columns: list[str]) -> pa.Table:
        """These columns of all rows."""
        return self.fragment.to_table(schema=self.schema, columns=columns, use_threads=False)

    def num_values(self, columns: list[str]) -> int:
        """Ids and numbers in these columns, as Parquet counts them (an empty list is one)."""
        (group,) = self.fragment.row_groups
        chunks = self.fragment.metadata.row_group(group.id)
        found = (chunks.column(index) for index in range(chunks.num_columns))
        wanted = set(columns)
        return sum(chunk.num_values for chunk in found if chunk.path_in_schema.partition(".")[0] in wanted)


def pieces_of(dataset: pads.Dataset) -> list[Piece]:
    """Every row group of the partition, files in the order of their paths."""
    return [
        Piece(fragment=group, num_rows=group.row_groups[0].num_rows, schema=dataset.schema)
        for fragment in fragments_of(dataset)
        for group in fragment.split_by_row_group()
    ]


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
