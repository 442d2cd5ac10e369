from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from features.hashing import mixed
from snapshots.shift.moments import NEGLIGIBLE_STD
from snapshots.shift.populations import (
    METRICS,
    Sample,
    auc,
    classifier_auc,
    mmd,
    population_statistics,
    psi,
    wasserstein,
)
from tests.snapshots.shift.planted import Array, rotation, space

DIM = 5


def sample(vectors: Array, *, first_user: int = 0) -> Sample:
    return Sample(hashes=mixed(np.arange(first_user, first_user + len(vectors))), vectors=vectors)


def test_auc_is_scikit_learns_and_counts_ties_by_half() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, 300).astype(float), rng.integers(5, 25, 200).astype(float)
    value, variance = auc(x, y)
    assert value == pytest.approx(roc_auc_score([0] * 300 + [1] * 200, np.concatenate([x, y])))
    again = [auc(rng.choice(x, 300), rng.choice(y, 200))[0] for _ in range(400)]
    assert math.sqrt(variance) == pytest.approx(np.std(again), rel=0.2)


def test_the_classifier_is_fishers() -> None:
    x, y = space(3_000, DIM), space(6_000, DIM)[3_000:] + 0.2
    before, after = sample(x), sample(y, first_user=5_000)
    both, day = np.concatenate([x, y]), np.repeat([0, 1], 3_000)
    direction = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(both, day).coef_[0]
    found = classifier_auc(before, after)
    assert found.value == pytest.approx(roc_auc_score(day, both @ direction), abs=0.01)
    assert found.error is not None
    assert 0.002 < found.error < 0.01


def test_wasserstein_is_scipys() -> None:
    x, y = space(300, DIM), 1.5 * space(211, DIM, seed=1)
    expected = [wasserstein_distance(x[:, d], y[:, d]) for d in range(DIM)]
    np.testing.assert_allclose(wasserstein(x, y), expected, rtol=1e-9)
    std = x.std(axis=0)
    found = dict(population_statistics(sample(x), sample(y)))
    normed = expected / np.maximum(std, NEGLIGIBLE_STD * std.max())
    assert found["wasserstein_share"].value == np.mean(normed > 0.1)
    assert found["wasserstein_max"].value == pytest.approx(normed.max())
    assert found["wasserstein_max"].note == f"dimension {normed.argmax()}"


def psi_by_hand(x: Array, y: Array) -> float:
    edges = [-np.inf, *np.quantile(x, np.arange(0.1, 0.95, 0.1)), np.inf]
    found = 0.0
    for low, high in pairwise(edges):
        q, p = (max(float(np.mean((low <= values) & (values < high))), 1e-4) for values in (x, y))
        found += (p - q) * math.log(p / q)
    return found


def test_psi_is_its_definition() -> None:
    x, y = space(500, DIM), space(400, DIM, seed=2)
    values, _ = psi(x, y)
    np.testing.assert_allclose(values, [psi_by_hand(x[:, d], y[:, d]) for d in range(DIM)], rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_of_psi_is_what_sampling_again_gives(shift: float) -> None:
    rng = np.random.default_rng(1)
    drawn = [psi(rng.normal(size=(500, 1)), rng.normal(shift, 1, size=(500, 1))) for _ in range(300)]
    values, errors = (np.array([part[which][0] for part in drawn]) for which in (0, 1))
    assert 0.8 < np.mean(errors) / np.std(values) < 1.6


def mmd_by_hand(x: Array, y: Array, width: float) -> float:
    def kernel(a: Array, b: Array) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * width**2))

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_mmd_is_its_definition() -> None:
    x, y = space(60, DIM), space(50, DIM, seed=1)
    both = np.concatenate([x, y])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i]]
    found = mmd(sample(x), sample(y, first_user=1_000))
    assert found.value == pytest.approx(mmd_by_hand(x, y, float(np.median(distances))))


def test_the_error_of_mmd_covers_what_sampling_again_gives() -> None:
    def one(seed: int, shift: float) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(100, DIM)), rng.normal(shift, 1, size=(100, DIM))
        found = mmd(sample(x), sample(y, first_user=1_000))
        return found.value, found.error or 0.0

    for shift in (0.0, 0.5):
        values, errors = np.array([one(seed, shift) for seed in range(100)]).T
        assert 0.8 < np.mean(errors) / np.std(values) < 2.5
    assert abs(np.mean([one(seed, 0.0)[0] for seed in range(100)])) < 0.001, "unbiased"


X = space(2_000, DIM)
OTHERS = space(4_000, DIM)[2_000:]


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        pytest.param(sample(X), sample(X), False, id="the same users, unmoved"),
        pytest.param(sample(X), sample(X[::-1].copy()), False, id="permuted users: the population has not moved"),
        pytest.param(sample(X), sample(OTHERS, first_user=9_000), False, id="other users of the same space"),
        pytest.param(sample(X), sample(X @ rotation(DIM)), True, id="rotation"),
        pytest.param(sample(X), sample(3 * X), True, id="scale"),
        pytest.param(sample(X), sample(X + 3), True, id="translation"),
    ],
)
def test_planted_truths(before: Sample, after: Sample, moved: bool) -> None:
    found = dict(population_statistics(before, after))
    assert tuple(found) == METRICS
    beyond = {name: number.value for name, number in found.items()}
    assert (beyond["wasserstein_share"] > 0.2) is moved
    assert (beyond["psi_max"] > 0.1) is moved
    error = found["mmd"].error
    assert error is not None
    assert (beyond["mmd"] > 3 * error + 1e-9) is moved
    assert (beyond["classifier_auc"] > 0.55) is moved
    assert all(number.error is not None for number in found.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(X[:49], X, id="few before"),
        pytest.param(X, X[:0], id="nobody today"),
        pytest.param(np.ones((100, DIM)), X[:100], id="all the same before"),
        pytest.param(np.ones((100, DIM)), np.ones((100, DIM)), id="all the same on both days"),
        pytest.param(np.zeros((100, DIM)), np.full((100, DIM), 65504.0), id="from zero to the largest fp16"),
        pytest.param(X[:100, :1], X[:100, :1], id="one dimension"),
    ],
)
def test_there_is_always_a_value_or_a_reason(before: Array, after: Array) -> None:
    for name, found in population_statistics(sample(before), sample(after)):
        assert math.isfinite(found.value) or found.note, name
