"""What a reader answers: representations of a user with some items, and what stands behind each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.solaris.levels import Level

Outcome = Literal["found", "cold", "damaged", "late", "unavailable"]
"""Of the read. cold: the store has no pair of the user. damaged: its value is no record. late: it did not answer within
`deadline_ms`. unavailable: it cannot be reached, or the last reads found it so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAnswer:
    """Row i of everything is of `items[i]`."""

    user: int
    items: NDArray[np.int64]
    vectors: NDArray[np.float16]
    """[I, E]."""
    levels: NDArray[np.uint8]
    """[I] of `levels.Level`: what each row is."""
    ages_seconds: NDArray[np.float32]
    """[I]: since an exact pair was written, by the store's clock; NaN of the others."""
    versions: NDArray[np.uint32]
    """[I]: the foundation model that an exact pair is of; 0 of the others."""
    outcome: Outcome
    served_ms: int
    """By the store's clock."""

    @property
    def misses(self) -> NDArray[np.int64]:
        """Items whose own representation was not there."""
        found: NDArray[np.int64] = self.items[self.levels != Level.EXACT]
        return found
