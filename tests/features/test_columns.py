"""Places among ids that ascend."""

from __future__ import annotations

import numpy as np
import pytest

from features.columns import places_in


@pytest.mark.parametrize(
    ("ordered", "ids"),
    [([2, 5, 9], [9, 1, 5, 10, 2, 2]), ([2], [2, 3]), ([], [1, 2]), ([1], [])],
    ids=["some absent", "one", "among none", "of none"],
)
def test_places_are_of_those_that_are_there(ordered: list[int], ids: list[int]) -> None:
    places, found = places_in(np.array(ordered, np.int64), np.array(ids, np.int64))
    assert found.tolist() == [one in ordered for one in ids]
    assert [ordered[place] for place in places[found].tolist()] == [one for one in ids if one in ordered]
