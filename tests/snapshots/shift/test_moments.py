from __future__ import annotations

import math

import numpy as np
import pytest

from snapshots.shift.moments import Moments, effective_rank
from snapshots.shift.rows import Measured
from tests.snapshots.shift.planted import Array, rotation, space

DIM = 6
X = space(400, DIM)


def measured(x: Array, y: Array, *, parts: int = 1) -> dict[str, Measured]:
    moments = Moments(x.shape[1])
    for of_x, of_y in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        moments.add(of_x, of_y)
    return dict(moments.spaces().statistics())


def values(x: Array, y: Array, *, parts: int = 1) -> dict[str, float]:
    return {name: found.value for name, found in measured(x, y, parts=parts).items()}


def instability_by_its_definition(x: Array, y: Array) -> float:
    """Definition 2 of the paper with matrices of [N, N]."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    u, v = (np.linalg.svd(a, full_matrices=False)[0] for a in (x, y))
    sigma = x @ x.T + y @ y.T
    uu, vv = u @ u.T, v @ v.T
    return float(np.trace((uu + vv - 2 * vv @ uu) @ sigma) / np.trace(sigma))


@pytest.mark.parametrize("seed", range(3))
def test_eigenspace_instability_is_its_definition(seed: int) -> None:
    x, y = space(60, DIM, seed=seed), space(60, DIM, seed=seed + 10) + 0.5 * space(60, DIM, seed=seed)
    found = values(x, y)["eigenspace_instability"]
    assert 0.05 < found < 1
    assert found == pytest.approx(instability_by_its_definition(x, y), abs=1e-9)


def test_dimensions_are_what_numpy_says() -> None:
    y = X * np.array([1, 2, 0.5, 1, 1, 1]) + np.array([0, 0, 0, 0.7, 0, 0])
    found = measured(X, y)
    shift = np.abs(y.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0)
    ratio = y.std(axis=0) / X.std(axis=0)
    assert found["mean_shift_max"].value == pytest.approx(shift.max())
    assert found["mean_shift_max"].note == f"dimension {shift.argmax()}"
    assert found["mean_shift_p50"].value == pytest.approx(np.median(shift), abs=1e-12)
    assert (found["std_ratio_min"].value, found["std_ratio_min"].note) == (pytest.approx(ratio.min()), "dimension 2")
    assert (found["std_ratio_max"].value, found["std_ratio_max"].note) == (pytest.approx(ratio.max()), "dimension 1")
    shares = np.linalg.eigvalsh(np.cov(y.T))
    shares /= shares.sum()
    assert found["effective_rank"].value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


QUIET = {"mean_shift_max": 0.0, "std_ratio_min": 1.0, "std_ratio_max": 1.0, "collapsed_dimensions": 0.0,
         "effective_rank_ratio": 1.0, "eigenspace_instability": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    ("y", "found"),
    [
        pytest.param(X, QUIET, id="identity"),
        pytest.param(X @ rotation(DIM), {"eigenspace_instability": 0.0, "effective_rank_ratio": 1.0}, id="rotation"),
        pytest.param(3 * X, {"eigenspace_instability": 0.0, "std_ratio_min": 3.0, "std_ratio_max": 3.0}, id="scale"),
        pytest.param(X + 5, {"eigenspace_instability": 0.0, "std_ratio_min": 1.0}, id="translation"),
        pytest.param(space(400, DIM, seed=9)[:, ::-1], {"collapsed_dimensions": 0.0}, id="another space"),
    ],
)
def test_planted_truths(y: Array, found: dict[str, float]) -> None:
    measured_values = values(X, y)
    assert {name: measured_values[name] for name in found} == pytest.approx(found, abs=1e-9)


def test_a_collapsed_dimension_is_named() -> None:
    y = X.copy()
    y[:, 3] = 0.25
    found = measured(X, y)
    assert found["collapsed_dimensions"] == Measured(value=1.0, note="dimensions 3")
    assert found["std_ratio_min"] == Measured(value=0.0, note="dimension 3")
    again = measured(y, y)
    assert again["collapsed_dimensions"].value == 0, "it had collapsed before"
    assert again["std_ratio_min"].value == pytest.approx(1.0)
    assert again["eigenspace_instability"].value == pytest.approx(0.0, abs=1e-9)


def test_a_dimension_that_awakes_is_no_infinity() -> None:
    x = X.copy()
    x[:, 3] = 0.25
    assert measured(x, X)["std_ratio_max"].note == "dimension 3"
    assert math.isfinite(measured(x, X)["std_ratio_max"].value)


@pytest.mark.parametrize(
    ("num_users", "constant", "unmeasured"),
    [
        pytest.param(1, False, {"mean_shift_max", "eigenspace_instability", "effective_rank_ratio"}, id="one user"),
        pytest.param(DIM, False, {"eigenspace_instability"}, id="as many users as dimensions"),
        pytest.param(50, True, {"mean_shift_max", "std_ratio_min", "effective_rank_ratio"}, id="all the same"),
    ],
)
def test_what_cannot_be_measured_says_why(num_users: int, constant: bool, unmeasured: set[str]) -> None:
    x = np.ones((num_users, DIM)) if constant else X[:num_users]
    found = measured(x, X[:num_users])
    assert {name for name, number in found.items() if math.isnan(number.value)} >= unmeasured
    assert all(number.note for number in found.values() if math.isnan(number.value))


@pytest.mark.parametrize("parts", [2, 7, 400])
def test_parts_add_up(parts: int) -> None:
    y = X @ rotation(DIM) + 0.1 * space(400, DIM, seed=3)
    assert values(X, y, parts=parts) == pytest.approx(values(X, y), abs=1e-9)


@pytest.mark.parametrize(
    ("variances", "rank"),
    [
        pytest.param([2, 2, 2, 2], 4.0, id="all alike"),
        pytest.param([5, 0, 0, 0], 1.0, id="one direction"),
        pytest.param([3, 3, 0, 0], 2.0, id="two directions"),
        pytest.param([0, 0, 0, 0], 0.0, id="none"),
    ],
)
def test_effective_rank(variances: list[float], rank: float) -> None:
    turn = rotation(4)
    assert effective_rank(turn.T @ np.diag(np.array(variances, float)) @ turn) == pytest.approx(rank)
