"""Average pooling over versions (section 5.2): the stabiliser of the served embeddings.

pooled_t = mean(e_t, e_t', e_t''), where e_t is the vector computed today and e_t', e_t'' the two most recent
cached ones of that user. Cached are *computed* vectors: what is pooled is never pooled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embeddings import fp16_exact, stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOKBACK_DAYS = 14
_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, kw_only=True)
class History:
    """The cached vectors of N users, by sorted id.

    num_cached: [N], how many; total: [N, K, D] float32, their sum.
    """

    ids: NDArray[np.int64]
    num_cached: NDArray[np.int8]
    total: NDArray[np.float32]

    def pool(
        self, user_ids: NDArray[np.int64], computed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Pool `computed` [B, K, D] of `user_ids` [B], all of them in `ids`.

        Returns the pooled vectors [B, K, D], averaged in float32 and rounded to fp16-exact, and how many
        versions went into each, [B] (1 for a new user).
        """
        rows = np.searchsorted(self.ids, user_ids)
        num_pooled = (self.num_cached[rows] + 1).astype(np.int8)
        pooled: NDArray[np.float32] = (computed + self.total[rows]) / num_pooled.astype(np.float32)[:, None, None]
        return fp16_exact(pooled), num_pooled


class Cached:
    """The computed vectors of earlier days, which lie in the lake. previous: newest day first."""

    def __init__(
        self, lake: Lake, previous: Sequence[Partition], *, num_embeddings: int, dim: int, versions: int
    ) -> None:
        self._lake, self._previous = lake, previous
        self._datasets: dict[int, pads.Dataset] = {}
        self._num_embeddings, self._dim, self._most = num_embeddings, dim, versions - 1

    def of(self, user_ids: NDArray[np.int64]) -> History:
        """The newest `versions - 1` of each of these users. Streams, and reads no further than it must: of a file in
        the order of ids only the row groups that may hold one of them. ValueError for a user listed twice."""
        ids = np.sort(user_ids)
        if len(ids) and bool((ids[1:] == ids[:-1]).any()):
            twice = int(ids[1:][ids[1:] == ids[:-1]][0])
            raise ValueError(f"user {twice} has more than one row; a day's user features hold one row per user")
        num_cached = np.zeros(len(ids), dtype=np.int8)
        total = np.zeros((len(ids), self._num_embeddings, self._dim), dtype=np.float32)
        for index in range(len(self._previous)):
            if bool((num_cached >= self._most).all()):
                break
            for batch in self._rows_of(index, ids):
                self._add(batch, ids, num_cached, total)
        return History(ids=ids, num_cached=num_cached, total=total)

    def _rows_of(self, index: int, ids: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        if index not in self._datasets:
            self._datasets[index] = self._lake.dataset(self._previous[index])
        columns = [USER_ID, *(f"embedding_{k}" for k in range(self._num_embeddings))]
        among = (pads.field(USER_ID) >= int(ids[0])) & (pads.field(USER_ID) <= int(ids[-1]))
        batches: Iterator[pa.RecordBatch] = self._datasets[index].to_batches(
            columns=columns, filter=among, batch_size=_ROWS_AT_A_TIME, batch_readahead=1, fragment_readahead=1
        )
        return batches

    def _add(
        self, batch: pa.RecordBatch, ids: NDArray[np.int64], num_cached: NDArray[np.int8], total: NDArray[np.float32]
    ) -> None:
        found = batch.column(USER_ID).to_numpy()
        rows = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
        wanted = (ids[rows] == found) & (num_cached[rows] < self._most)
        if wanted.any():
            vectors = stack(batch, "embedding", num_embeddings=self._num_embeddings, dim=self._dim)
            total[rows[wanted]] += vectors[wanted]
            num_cached[rows[wanted]] += 1
