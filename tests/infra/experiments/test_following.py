"""What a consumer's days add up to is what the product's scores say of the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infra.experiments.following import Losses
from trainer.downstream.scores import Predictions, compare


def _predictions(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy((rng.random(300) < 0.2).astype(np.float32))
    baseline = torch.from_numpy(rng.normal(-1.4, 0.5, 300).astype(np.float32))
    return Predictions(
        user_ids=rng.integers(0, 40, 300),
        has_embedding=torch.ones(300, dtype=torch.bool),
        labels=labels,
        logits={"baseline": baseline, "sum": baseline + 0.5 * labels},
    )


def test_one_day_is_scored_as_by_the_daily_retraining() -> None:
    training, evaluation = _predictions(0), _predictions(1)
    losses = Losses()
    losses.add(training, evaluation)
    expected = compare(evaluation, bootstrap_seed=0).everyone
    assert losses.diff_percent("sum", kind="eval", first=0) == pytest.approx(expected.ne_diff_percent)
    assert losses.interval("sum", first=0) == pytest.approx(expected.interval)
    assert losses.diff_percent("sum", kind="train", first=0) == pytest.approx(
        compare(training).everyone.ne_diff_percent
    )
    assert losses.ne("sum", kind="train", first=0) == pytest.approx(compare(training).everyone.sum.ne, rel=1e-5)


def test_days_are_weighed_by_their_losses_and_the_first_can_be_left_out() -> None:
    losses = Losses()
    for seed in (0, 1, 2):
        losses.add(_predictions(seed), _predictions(seed + 10))
    baseline = sum(float(_predictions(seed).losses("baseline").sum()) for seed in (11, 12))
    others = sum(float(_predictions(seed).losses("sum").sum()) for seed in (11, 12))
    assert losses.diff_percent("sum", kind="eval", first=1) == pytest.approx(100 * (others / baseline - 1))
    assert losses.diff_percent("baseline", kind="eval", first=1, reference="sum") == pytest.approx(
        100 * (baseline / others - 1)
    )
    low, high = losses.interval("sum", first=1)
    assert low < losses.diff_percent("sum", kind="eval", first=1) < high < 0
