"""Whether the same users are near each other before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from snapshots.shift.rows import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 10
NEIGHBOUR_USERS = 2_000


def knn_overlap(before: NDArray[np.float32], after: NDArray[np.float32], *, k: int = NEIGHBOURS) -> Measured:
    """The mean share of a user's k nearest that stay among them: by cosine, exact, among these N users, [N, D] each.

    Error: that of the mean over the users; who could be a neighbour is not drawn again.
    """
    if len(before) <= k:
        return Measured(value=math.nan, note=f"{len(before)} users; more than {k} have {k} neighbours")
    is_before = np.zeros((len(before), len(before)), dtype=bool)
    np.put_along_axis(is_before, _nearest(before, k), values=True, axis=1)
    kept = np.take_along_axis(is_before, _nearest(after, k), axis=1).mean(axis=1)
    return Measured(value=float(kept.mean()), error=float(kept.std(ddof=1) / math.sqrt(len(kept))), note=f"k={k}")


def _nearest(vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """[N, k] of [N, D]. A zero vector is equally far from everybody."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    far = -(unit @ unit.T)
    np.fill_diagonal(far, np.inf)
    nearest: NDArray[np.int64] = np.argpartition(far, k, axis=1)[:, :k]
    return nearest
