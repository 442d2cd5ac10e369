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
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Level(IntEnum):
    """Of an answer. The numbers are in tables."""

    EXACT = 0
    USER = 1
    NEIGHBOURS = 2
    ZERO = 3


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
    places = _places(own_items, items)
    width = own_vectors.shape[1]
    if len(own_items):
        others = np.broadcast_to(mean(own_vectors), (len(items), width))
        levels = np.full(len(items), Level.USER, np.uint8)
    else:
        found = [neighbours.get(item) for item in items.tolist()]
        zero = np.zeros(width, np.float16)
        others = np.array([zero if one is None else one for one in found], np.float16).reshape(len(items), width)
        levels = np.array([Level.ZERO if one is None else Level.NEIGHBOURS for one in found], np.uint8)
    is_exact = places >= 0
    vectors = others.copy()
    vectors[is_exact] = own_vectors[places[is_exact]]
    levels[is_exact] = Level.EXACT
    return Filled(vectors, levels, places)


def mean(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    """[E] of [n, E], n > 0: summed in float32, rounded. Numbers that all fit into float16 have a mean that does."""
    found: NDArray[np.float16] = vectors.mean(axis=0, dtype=np.float32).astype(np.float16)
    return found


def shares(levels: NDArray[np.uint8]) -> dict[str, float]:
    """The share of each level by name; `exact` is the hit rate, 1 - `zero` the coverage."""
    counts = np.bincount(levels, minlength=len(Level))
    return {name: float(count) / max(len(levels), 1) for name, count in zip(NAMES, counts.tolist(), strict=True)}


def _places(own: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """[I]: where each item is among the user's; -1."""
    if not len(own):
        return np.full(len(items), -1)
    order = np.argsort(own)
    at = np.minimum(np.searchsorted(own, items, sorter=order), len(own) - 1)
    found: NDArray[Any] = order[at]
    return np.where(own[found] == items, found, -1)
