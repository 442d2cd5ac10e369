"""Average pooling over versions (section 5.2): the stabiliser of the served embeddings.

pooled_t = mean(e_t, e_t', e_t''), where e_t is the vector computed today and e_t', e_t'' the two most recent
cached ones of that user. Cached are *computed* vectors: what is pooled is never pooled again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embeddings import fp16_exact, stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOKBACK_DAYS = 14


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


def read_history(
    lake: Lake,
    previous: Sequence[Partition],
    user_ids: NDArray[np.int64],
    *,
    num_embeddings: int,
    dim: int,
    versions: int,
) -> History:
    """The newest `versions - 1` computed vectors of each of `user_ids` in `previous`, newest day first.

    Streams the partitions, and reads no further than it must. ValueError for a user listed twice.
    """
    ids = np.sort(user_ids)
    if len(ids) and bool((ids[1:] == ids[:-1]).any()):
        twice = int(ids[1:][ids[1:] == ids[:-1]][0])
        raise ValueError(f"user {twice} has more than one row; a day's user features hold one row per user")
    num_cached = np.zeros(len(ids), dtype=np.int8)
    total = np.zeros((len(ids), num_embeddings, dim), dtype=np.float32)
    columns = [USER_ID, *(f"embedding_{k}" for k in range(num_embeddings))]
    for partition in previous:
        if bool((num_cached >= versions - 1).all()):
            break
        for batch in lake.dataset(partition).to_batches(columns=columns, batch_size=65_536):
            found = batch.column(USER_ID).to_numpy()
            rows = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
            wanted = (ids[rows] == found) & (num_cached[rows] < versions - 1)
            if wanted.any():
                vectors = stack(batch, "embedding", num_embeddings=num_embeddings, dim=dim)
                total[rows[wanted]] += vectors[wanted]
                num_cached[rows[wanted]] += 1
    return History(ids=ids, num_cached=num_cached, total=total)
