"""Distinct ids in bounded memory: the ids whose hashes are lowest (a bottom-k sketch)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from features.hashing import mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKETCH_IDS = 4_096
_HASHES = 2.0**64


class IdSketch:
    """The `size` lowest hashes of all ids that were added; exact while there are fewer distinct ids than that."""

    def __init__(self, size: int = SKETCH_IDS) -> None:
        self.size = size
        self.hashes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        """Sorted, distinct."""

    @property
    def is_exact(self) -> bool:
        """Whether every id that was added is in it."""
        return len(self.hashes) < self.size

    def add(self, ids: NDArray[np.int64]) -> None:
        """More ids, in any order, any number of times."""
        hashes = mixed(ids)
        if not self.is_exact:
            hashes = hashes[hashes < self.hashes[-1]]
        if hashes.size:
            self.hashes = np.unique(np.concatenate([self.hashes, hashes]))[: self.size]

    @property
    def num_distinct(self) -> float:
        """How many distinct ids were added."""
        if self.is_exact:
            return float(len(self.hashes))
        return (self.size - 1) / (float(self.hashes[-1]) / _HASHES)

    @property
    def error(self) -> float | None:
        """Standard error of `num_distinct`; None where it is exact."""
        return None if self.is_exact else self.num_distinct / math.sqrt(self.size - 2)


def seen_again(before: IdSketch, after: IdSketch) -> tuple[float, float | None]:
    """The share of the ids of `before` that are in `after` too, and its standard error (None: exact); `before` has ids.

    Both sketches hold every id whose hash is below the lower of their highest, so of those the share is exact.
    """
    full = [sketch.hashes[-1] for sketch in (before, after) if not sketch.is_exact]
    known = before.hashes if not full else before.hashes[before.hashes <= min(full)]
    share = float(np.isin(known, after.hashes, assume_unique=True).mean()) if len(known) else 0.0
    return share, math.sqrt(share * (1 - share) / max(len(known), 1)) if full else None
