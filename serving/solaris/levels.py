"""What stands in for a pair that was not computed in time: the fallback levels, best first.

EXACT: the pair's own representation. USER: the mean of the representations that the user has with other items: what
the foundation model knows of the user, the item averaged out. NEIGHBOURS: for a user who has none, the mean of the
item's representations with the users who were represented with it last: what it knows of the item, the user averaged
out. ZERO: nothing. A user's own pairs with similar items are no level of their own: whoever has one has the mean, which
needs no notion of similarity, and the mean of those alone would rest on one or two pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Level(IntEnum):
    """Of an answer. The numbers are in tables."""

    EXACT = 0
    USER = 1
    NEIGHBOURS = 2
    ZERO = 3


EXACT, USER, NEIGHBOURS, ZERO = map(int, Level)
NAMES = tuple(level.name.lower() for level in Level)


@dataclass(frozen=True)
class Filled:
    """vectors: [I, E] float16. levels: [I] uint8 of `Level`. places: [I], of each exact one its place among the
    user's entries; -1."""

    vectors: NDArray[np.float16]
    levels: NDArray[np.uint8]
    places: NDArray[np.int64]


def fill(
    own_items: NDArray[np.int64],
    own_vectors: NDArray[np.float16],
    items: NDArray[np.int64],
    neighbours: Mapping[int, NDArray[np.float16]],
) -> Filled:
    """The best there is of each of `items` [I].

    own_items [n], own_vectors [n, E]: the user's pairs, each item once. neighbours: by item, the mean [E].
    """
    found = own_items == items[:, None]  # [I, n]
    is_exact = found.any(axis=1)
    vectors = np.zeros((len(items), own_vectors.shape[1]), np.float16)
    levels = np.full(len(items), ZERO, np.uint8)
    if not len(own_items):
        for row, item in enumerate(items.tolist()):
            if (vector := neighbours.get(item)) is not None:
                vectors[row], levels[row] = vector, NEIGHBOURS
        return Filled(vectors, levels, np.full(len(items), -1))
    places = np.where(is_exact, found.argmax(axis=1), -1)
    levels[:] = np.where(is_exact, EXACT, USER)
    if not is_exact.all():
        vectors[:] = mean(own_vectors)
    vectors[is_exact] = own_vectors[places[is_exact]]
    return Filled(vectors, levels, places)


def mean(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    """[E] of [n, E], n > 0: summed in float32, rounded. Numbers that all fit into float16 have a mean that does."""
    total: NDArray[np.float32] = np.add.reduce(vectors, axis=0, dtype=np.float32)
    return (total / np.float32(len(vectors))).astype(np.float16)


def shares(levels: NDArray[np.uint8]) -> dict[str, float]:
    """The share of each level by name; `exact` is the hit rate, 1 - `zero` the coverage."""
    counts = np.bincount(levels, minlength=len(Level))
    return {name: float(count) / max(len(levels), 1) for name, count in zip(NAMES, counts.tolist(), strict=True)}
