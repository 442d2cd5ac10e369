"""Which shard has which row of the tables, and which rows of each shard a batch needs.

Row r lies with shard r % N, at place r // N. All tables are one matrix, one below the other: ranges would give whole
tables, and the head of a table sorted by frequency, to one shard; in turns, hot rows and memory are spread evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SHARDS = 1_024


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of the tables is shard `index` of `of`."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.of <= MAX_SHARDS:
            raise ValueError(f"{self.of} shards: there are 1 to {MAX_SHARDS}")
        if not 0 <= self.index < self.of:
            raise ValueError(f"shard {self.index} is none of {self.of}; they are numbered from 0")

    def __str__(self) -> str:
        return f"shard {self.index} of {self.of}"

    def num_rows(self, total: int) -> int:
        """How many of `total` rows lie with it."""
        return len(range(self.index, total, self.of))


@dataclass(frozen=True, kw_only=True)
class Needed:
    """The rows that a batch needs, each once."""

    of_shard: tuple[NDArray[np.int64], ...]
    """Places within each shard, ascending."""
    rows: NDArray[np.int64]
    """[n], the batch's own: where each now lies among `of_shard`, one after another."""

    @property
    def num_rows(self) -> int:
        """Of all shards."""
        return sum(len(places) for places in self.of_shard)


def needed(rows: NDArray[np.int64], *, of: int, num_rows: int) -> Needed:
    """Of a batch's rows [n], numbers of rows of a table of `num_rows`. ValueError for a row that the table has not."""
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise ValueError(f"rows {rows.min()} to {rows.max()} are asked for; the tables have rows 0 to {num_rows - 1}")
    most = -(-num_rows // of)
    place, shard = np.divmod(rows, of)
    keys, found = np.unique(shard * most + place, return_inverse=True)
    cuts = np.searchsorted(keys, most * np.arange(1, of))
    parts = np.split(keys, cuts)
    return Needed(of_shard=tuple(part - most * index for index, part in enumerate(parts)), rows=found)
