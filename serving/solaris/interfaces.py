"""Where the halves of SOLARIS meet: who represents pairs, who knows the items, and which pairs are likely.

The online half (store, queue, worker, reader) knows a foundation model by these verbs alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Foundation(Protocol):
    """A model that is too slow to be asked on a request."""

    @property
    def width(self) -> int:
        """E, of a representation."""
        ...

    @property
    def version(self) -> int:
        """Of the weights: 0 to 2^32 - 1, greater for newer ones."""
        ...

    def represent(
        self, user_rows: pa.Table | pa.RecordBatch, item_rows: pa.Table | pa.RecordBatch
    ) -> NDArray[np.float32]:
        """[P, E]: of row i of the users with row i of the items. Rows that are not finite are refused, and cost no
        other. ValueError for rows it cannot read."""
        ...


class Catalogue(Protocol):
    """The items that may be asked for, in memory."""

    def known(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[N]: which of them have features."""
        ...

    def rows(self, items: NDArray[np.int64]) -> pa.RecordBatch:
        """Their item-side features, a row for each, in this order; all are known."""
        ...


class Likely(NamedTuple):
    """A pair that is likely to be asked for. priority: finite; the greatest is computed first."""

    user: int
    item: int
    priority: float
