from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from infra.experiments.statistics import difference, estimate

VALUES = [-7.1, -6.4, -6.9, -7.7, -5.8]


def test_the_interval_is_students() -> None:
    found = estimate(VALUES)
    interval = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(np.mean(VALUES))
    assert found.values == tuple(VALUES)


def test_by_hand() -> None:
    """t of one degree of freedom at 97.5 % is tan(0.475 pi) = 12.706; the mean's deviation is half the distance."""
    assert estimate([1.0, 3.0]).half == pytest.approx(math.tan(0.475 * math.pi))


def test_a_difference_is_paired() -> None:
    other = [value + 0.1 for value in VALUES]
    found = difference(other, VALUES)
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="2 values cannot be paired with 5"):
        difference([1.0, 2.0], VALUES)


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        pytest.param([1.0, 1.1, 0.9], 1, id="above zero"),
        pytest.param([-1.0, -1.1, -0.9], -1, id="below"),
        pytest.param([1.0, -1.1, 0.9], 0, id="around"),
        pytest.param([1.0], 0, id="one seed"),
    ],
)
def test_the_sign_is_said_where_the_interval_says_it(values: list[float], sign: int) -> None:
    assert estimate(values).sign == sign


@pytest.mark.parametrize("values", [pytest.param([], id="none"), pytest.param([1.0, float("nan")], id="not finite")])
def test_what_cannot_be_estimated(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value, all finite"):
        estimate(values)
