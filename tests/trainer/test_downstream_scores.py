"""The comparison of the arms and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.downstream.scores import Predictions, bootstrap_interval, compare


def predictions(*, size: int = 4_000, users: int = 300, gain: float) -> Predictions:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=size)
    noise = rng.normal(size=size)
    labels = rng.random(size) < 1 / (1 + np.exp(-truth))
    owner = rng.integers(users, size=size)
    return Predictions(
        user_ids=owner,
        has_embedding=torch.from_numpy(owner % 3 > 0),
        labels=torch.from_numpy(labels).float(),
        logits={
            "baseline": torch.from_numpy(noise * 0.1).float(),
            "sum": torch.from_numpy(noise * 0.1 + gain * truth).float(),
        },
    )


def test_the_difference_is_that_of_eq_9() -> None:
    given = predictions(gain=0.5)
    found = compare(given, bootstrap_seed=0)
    y = given.labels.double().numpy()
    background = -(y.mean() * np.log(y.mean()) + (1 - y.mean()) * np.log(1 - y.mean()))

    def ne(logits: torch.Tensor) -> float:
        p = 1 / (1 + np.exp(-logits.double().numpy()))
        return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean() / background)

    everyone = found.everyone
    assert everyone.baseline.ne == pytest.approx(ne(given.logits["baseline"]), rel=1e-5)
    assert everyone.sum.ne == pytest.approx(ne(given.logits["sum"]), rel=1e-5)
    assert everyone.sum.log_loss == pytest.approx(ne(given.logits["sum"]) * background, rel=1e-6)
    assert everyone.ne_diff_percent == pytest.approx(
        100 * (ne(given.logits["sum"]) / ne(given.logits["baseline"]) - 1), rel=1e-5
    )
    assert everyone.sum.auc is not None
    assert everyone.sum.auc > 0.6
    assert everyone.interval is not None
    assert everyone.interval[0] < everyone.ne_diff_percent < everyone.interval[1] < 0


def test_users_with_and_without_are_told_apart() -> None:
    given = predictions(gain=0.5)
    found = compare(given)
    assert found.with_embedding is not None
    assert found.without_embedding is not None
    assert (found.with_embedding.num_users, found.without_embedding.num_users) == (200, 100)
    assert found.with_embedding.num_examples == int(given.has_embedding.sum())
    assert found.with_embedding.num_examples + found.without_embedding.num_examples == 4_000
    assert found.everyone.interval is None


def test_a_day_of_one_label_has_no_ne_but_a_difference() -> None:
    one = torch.ones(3)
    logits = {"baseline": 0 * one, "sum": one}
    given = Predictions(user_ids=np.array([1, 1, 2]), has_embedding=one > 0, labels=one, logits=logits)
    found = compare(given)
    assert found.without_embedding is None
    assert (found.everyone.sum.ne, found.everyone.sum.auc) == (None, None)
    assert found.everyone.ne_diff_percent == pytest.approx(100 * (np.log1p(np.exp(-1)) / np.log(2) - 1))


def test_no_predictions() -> None:
    empty = torch.empty(0)
    logits = {"baseline": empty, "sum": empty}
    with pytest.raises(ValueError, match="no predictions"):
        compare(Predictions(user_ids=np.empty(0, dtype=int), has_embedding=empty > 0, labels=empty, logits=logits))


def test_the_interval_resamples_users_and_not_examples() -> None:
    """Equal to a plain cluster bootstrap, and wider than one that breaks users up."""
    rng = np.random.default_rng(0)
    per_user = rng.normal(1, 0.1, size=(100, 1)) + rng.normal(0, 0.3, size=(100, 2)) + 3
    found = bootstrap_interval(per_user, seed=7)
    assert found == bootstrap_interval(per_user, seed=7)

    draws = np.random.default_rng([7, 100])
    plain = []
    for _ in range(200):
        totals = per_user[draws.integers(100, size=100)].sum(axis=0)
        plain.append(100 * (totals[1] / totals[0] - 1))
    assert found == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])))

    examples = np.repeat(per_user / 20, 20, axis=0)  # 20 equal examples of each user, drawn one by one
    low, high = bootstrap_interval(examples, seed=7)
    assert high - low < 0.5 * (found[1] - found[0])
