from __future__ import annotations

import math

import numpy as np
import pytest

from snapshots.shift.distribution import QUANTILES, cosines, norm_changes


def test_mean_and_quantiles_are_numpys() -> None:
    rng = np.random.default_rng(0)
    cosine, change = 1 - rng.exponential(0.1, 5_000).clip(max=2), rng.exponential(0.3, 5_000)
    for values, found, resolution in ((cosine, cosines(), 1e-4), (change, norm_changes(), 5e-4)):
        for part in np.array_split(values, 13):
            found.add(part)
        assert found.num_users == 5_000
        assert found.mean == pytest.approx(values.mean(), abs=1e-12)
        assert found.standard_error == pytest.approx(values.std() / math.sqrt(4_999), rel=1e-9)
        for q in (0.0, *QUANTILES.values(), 0.99, 1.0):
            assert found.quantile(q) == pytest.approx(np.quantile(values, q), abs=resolution)


@pytest.mark.parametrize(
    ("values", "quantile"),
    [
        pytest.param([1.0] * 9, 1.0, id="all the same: exact"),
        pytest.param([-1.0, 1.0], -0.9, id="between two, as NumPy's"),
        pytest.param([0.123456], 0.123456, id="one: exact"),
    ],
)
def test_quantiles_of_few(values: list[float], quantile: float) -> None:
    found = cosines()
    found.add(np.array(values))
    assert found.quantile(0.05) == pytest.approx(quantile, abs=1e-4)


def test_a_norm_that_explodes_has_its_quantile() -> None:
    found = norm_changes()
    found.add(np.array([9.0, 9.01, 8.99, 1e30]))
    assert found.quantile(0.5) == pytest.approx(9.005, abs=0.01)
    assert found.quantile(1.0) > 1e4


def test_nothing_is_nan() -> None:
    found = cosines()
    found.add(np.zeros(0))
    assert math.isnan(found.mean)
    assert math.isnan(found.quantile(0.5))


def test_the_errors_of_a_sample_are_what_sampling_again_gives() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        found = cosines()
        found.add(1 - rng.beta(1, 10, 400))
        drawn.append(dict(found.statistics("cosine", sampled=True)))
    for name in ("cosine_mean", "cosine_p05", "cosine_p50"):
        errors = [part[name].error for part in drawn]
        assert np.mean(errors) == pytest.approx(np.std([part[name].value for part in drawn]), rel=0.2)
    exact = dict(found.statistics("cosine", sampled=False))
    assert all(number.error is None for number in exact.values())
