"""What stands in for a pair that is not there."""

from __future__ import annotations

import numpy as np
import pytest

from serving.solaris.levels import Level, fill, mean, shares

OWN = {5: [1.0, 0.0], -7: [0.0, 2.0], 2**62: [2.0, 1.0]}
NEIGHBOURS = {1: np.array([9.0, 9.0], np.float16), 5: np.array([8.0, 8.0], np.float16)}


@pytest.mark.parametrize(
    ("own", "item", "level", "vector"),
    [
        pytest.param(OWN, 5, Level.EXACT, [1.0, 0.0], id="its own"),
        pytest.param(OWN, 2**62, Level.EXACT, [2.0, 1.0], id="its own, of a great id"),
        pytest.param(OWN, 1, Level.USER, [1.0, 1.0], id="the user's others before the item's"),
        pytest.param({}, 1, Level.NEIGHBOURS, [9.0, 9.0], id="other users'"),
        pytest.param({}, 2, Level.ZERO, [0.0, 0.0], id="nothing"),
    ],
)
def test_the_best_there_is(own: dict[int, list[float]], item: int, level: Level, vector: list[float]) -> None:
    items, vectors = np.array(list(own), np.int64), np.array(list(own.values()), np.float16).reshape(-1, 2)
    found = fill(items, vectors, np.array([item, 5, item]), NEIGHBOURS)
    assert (found.levels[0], found.vectors[0].tolist()) == (level, vector)
    assert found.levels[2] == level
    assert found.levels[1] == (Level.EXACT if own else Level.NEIGHBOURS)
    assert (found.vectors.dtype, found.vectors.shape) == (np.float16, (3, 2))
    assert [place >= 0 for place in found.places.tolist()] == [one == Level.EXACT for one in found.levels]


def test_nothing_asked() -> None:
    found = fill(np.empty(0, np.int64), np.empty((0, 2), np.float16), np.empty(0, np.int64), {})
    assert found.vectors.shape == (0, 2)


def test_a_mean_of_the_greatest_numbers_is_one_of_them() -> None:
    assert mean(np.full((5, 1), 65_504, np.float16)).tolist() == [65_504]


def test_shares() -> None:
    assert shares(np.array([0, 0, 1, 3], np.uint8)) == {"exact": 0.5, "user": 0.25, "neighbours": 0.0, "zero": 0.25}
    assert shares(np.empty(0, np.uint8)) == {"exact": 0.0, "user": 0.0, "neighbours": 0.0, "zero": 0.0}
