"""When two trainings of the same model agree."""

from __future__ import annotations

import torch


def assert_agree(found: torch.Tensor, expected: torch.Tensor, *, name: str) -> None:
    """Equal within float tolerance, but for one element in a hundred, which may differ by a twentieth of a step.

    Adagrad and Adam divide a gradient by its own size: where it is nearly zero, the last bit decides the step.
    """
    difference = (found - expected).abs()
    num_apart = int((difference > 1e-5 + 1e-4 * expected.abs()).sum())
    assert num_apart <= max(expected.numel() // 100, 2), f"{name}: {num_apart} of {expected.numel()} differ"
    assert difference.max() <= 5e-3, f"{name}: {float(difference.max())}"
