from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.model.losses import weighted_cross_entropy


@pytest.mark.parametrize("num_padding", [0, 3], ids=["full", "padded"])
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_the_loss_is_equation_8(num_padding: int, num_tasks: int) -> None:
    rng = np.random.default_rng(3)
    n = 17
    z = rng.normal(size=(n + num_padding, num_tasks)) * 3
    y = rng.integers(0, 2, size=z.shape)
    w = rng.random(num_tasks) + 0.1
    p = 1 / (1 + np.exp(-z[:n]))
    expected = -1 / n * (w * (y[:n] * np.log(p) + (1 - y[:n]) * np.log(1 - p))).sum()
    found = weighted_cross_entropy(
        torch.tensor(z),
        torch.tensor(y, dtype=torch.float64),
        task_weights=torch.tensor(w),
        weights=torch.tensor([1.0] * n + [0.0] * num_padding, dtype=torch.float64),
        num_examples=torch.tensor(float(n), dtype=torch.float64),
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)
