"""A day's examples as pairs in event time: which user was shown which item when."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import Ids, column_of
from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from features.sources.draws import mix
from features.windows import pieces_of


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """[N] in the order of the partition's rows."""

    user: Ids
    item: Ids
    time_us: Ids
    """Microseconds since 1970."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def read(cls, lake: Lake, examples: Partition, *, item: str) -> Impressions:
        """Of a day of examples. item: the feature whose one id tells items apart; ValueError where an example has not
        one of it."""
        columns = [USER_ID, EVENT_TIME, item]
        rows = pa.concat_tables([piece.read(columns) for piece in pieces_of(lake.dataset(examples))])
        return cls.of_rows(rows, item=item)

    @classmethod
    def of_rows(cls, rows: pa.Table | pa.RecordBatch, *, item: str) -> Impressions:
        """Of examples."""
        times: Ids = column_of(rows, EVENT_TIME).cast(pa.int64()).to_numpy()
        users: Ids = column_of(rows, USER_ID).to_numpy()
        return cls(user=users, item=items_of(rows, item), time_us=times)

    def places(self, others: Impressions) -> Ids:
        """Where each of `others`, some of these, stands among these: any of those that agree in user, item and time."""
        place = np.minimum(np.searchsorted(self._sorted[0], others._keys), len(self) - 1)
        assert bool((self._sorted[0][place] == others._keys).all()), "they are examples of another day"
        return self._sorted[1][place]

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        """64 bits of user, item and time: two of a day's millions agree by chance once in millions of days."""
        return mix(0, self.user, self.item, self.time_us)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint64], Ids]:
        order = np.argsort(self._keys, kind="stable")
        return self._keys[order], order


def items_of(rows: pa.Table | pa.RecordBatch, item: str) -> Ids:
    """[rows]: the one id of the feature. ValueError where a row has none or several."""
    column = column_of(rows, item)
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    if column.null_count or (len(column) and lengths != {"min": 1, "max": 1}):
        raise ValueError(f"column {item} has rows of no id or of several; an item is told by one id")
    ids: Ids = column.flatten().to_numpy()
    return ids
