from __future__ import annotations

import numpy as np
import pytest

from infra.experiments.lab import Computed
from infra.experiments.turning import Turning, blur
from snapshots.movement import movement

COMPUTED = Computed(
    user_ids=np.arange(500, dtype=np.int64),
    vectors=np.random.default_rng(0).standard_normal((500, 2, 8)).astype(np.float32),
)


@pytest.mark.parametrize("cosine", [0.97, 0.7])
def test_every_vector_turns_by_the_angle_and_keeps_its_products(cosine: float) -> None:
    turning = Turning(cosine=cosine, seed=3)
    before, after = (turning.apply(COMPUTED, version).vectors for version in (4, 5))
    for k in range(2):
        moved = movement(before[:, k], after[:, k])
        np.testing.assert_allclose(moved.cosine, cosine, atol=2e-3)
        assert moved.norm_change.max() < 2e-3
        original = COMPUTED.vectors[:, k]
        np.testing.assert_allclose(after[:, k] @ after[:, k].T, original @ original.T, atol=0.03)


def test_blurred_days_have_the_cosine_on_the_mean_and_the_same_norms() -> None:
    one, two = (blur(COMPUTED, day, cosine=0.87, seed=0).vectors[:, 0] for day in (1, 2))
    moved = movement(one, two)
    assert moved.cosine.mean() == pytest.approx(0.87, abs=0.01)
    assert moved.norm_change.max() < 2e-3
    np.testing.assert_allclose(movement(COMPUTED.vectors[:, 0], one).cosine, np.sqrt(0.87), atol=2e-3)
