from __future__ import annotations

import numpy as np
import pytest

from snapshots.movement import movement


def test_movement_is_what_table_3_averages() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(500, 96)).astype(np.float32) for _ in range(2))
    moved = movement(a, b)
    cosine = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    change = [
        abs(float(np.linalg.norm(y)) - float(np.linalg.norm(x))) / float(np.linalg.norm(x))
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(moved.cosine, cosine, atol=1e-6)
    np.testing.assert_allclose(moved.norm_change, change, atol=1e-6)


A = [3.0, 4.0]


@pytest.mark.parametrize(
    ("before", "after", "cosine", "norm_change"),
    [
        pytest.param(A, A, 1.0, 0.0, id="unmoved"),
        pytest.param(A, [6.0, 8.0], 1.0, 1.0, id="twice as long: the norm alone changed"),
        pytest.param(A, [1.5, 2.0], 1.0, 0.5, id="half as long"),
        pytest.param(A, [4.0, -3.0], 0.0, 0.0, id="rotated: the norm did not change"),
        pytest.param(A, [-3.0, -4.0], -1.0, 0.0, id="reversed"),
        pytest.param([0.0, 0.0], [0.0, 0.0], 1.0, 0.0, id="zero stays zero"),
        pytest.param([0.0, 0.0], A, 0.0, 1.0, id="out of zero"),
        pytest.param(A, [0.0, 0.0], 0.0, 1.0, id="collapsed to zero"),
    ],
)
def test_movement_by_hand(before: list[float], after: list[float], cosine: float, norm_change: float) -> None:
    moved = movement(np.array([before], np.float32), np.array([after], np.float32))
    assert moved.cosine[0] == pytest.approx(cosine)
    assert moved.norm_change[0] == pytest.approx(norm_change)
