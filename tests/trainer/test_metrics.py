from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.metrics import ProgressiveMetrics


def plain_auc(p: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order; a tie counts half."""
    difference = p[y == 1][:, None] - p[y == 0][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def scored(num_rows: int = 900) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    z = rng.normal(size=(num_rows, 2)) - 1
    y = (rng.random(z.shape) < 1 / (1 + np.exp(-2 * z))).astype(np.float64)
    return z, y


def test_metrics_are_the_equations_over_every_example_but_padding() -> None:
    z, y = scored()
    metrics = ProgressiveMetrics(("click", "buy"))
    for start in range(0, len(z), 128):
        logits = torch.tensor(z[start : start + 128], dtype=torch.float32)
        labels = torch.tensor(y[start : start + 128], dtype=torch.float32)
        padding = torch.full((5, 2), 9.0)
        weights = torch.cat([torch.ones(len(logits)), torch.zeros(5)])
        metrics.update(torch.cat([logits, padding]), torch.cat([labels, torch.zeros(5, 2)]), weights)
    values = metrics.compute()
    for t, task in enumerate(("click", "buy")):
        p, labels = 1 / (1 + np.exp(-z[:, t])), y[:, t]
        rate = labels.mean()
        entropy = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
        ne = entropy / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))  # Eq. 9
        assert values[task]["ne"] == pytest.approx(ne, rel=1e-6)
        assert values[task]["calibration"] == pytest.approx(p.sum() / labels.sum(), rel=1e-6)
        assert values[task]["auc"] == pytest.approx(plain_auc(p, labels), abs=1e-4)
        assert values[task]["ctr"] == pytest.approx(rate)
        assert (values[task]["positives"], values[task]["examples"]) == (labels.sum(), len(z))


@pytest.mark.parametrize(
    ("label", "without_meaning"),
    [
        pytest.param(0.0, {"ne", "auc", "calibration"}, id="no-positive"),
        pytest.param(1.0, {"ne", "auc"}, id="no-negative"),
    ],
)
def test_what_has_no_meaning_is_nan(label: float, without_meaning: set[str]) -> None:
    metrics = ProgressiveMetrics(("click",))
    metrics.update(torch.zeros(4, 1), torch.full((4, 1), label), torch.ones(4))
    values = metrics.compute()["click"]
    assert {name for name, value in values.items() if math.isnan(value)} == without_meaning


def test_confident_predictions_stay_finite() -> None:
    metrics = ProgressiveMetrics(("click",))
    metrics.update(torch.tensor([[200.0], [-200.0]]), torch.tensor([[0.0], [1.0]]), torch.ones(2))
    values = metrics.compute()["click"]
    assert values["ne"] == pytest.approx(200 / math.log(2))
    assert values["auc"] == 0
