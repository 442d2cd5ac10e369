"""Means over seeds, with 95 % intervals by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A quantity measured once per seed."""

    mean: float
    half: float | None
    """Half the width of the 95 % interval of the mean; None for one seed, which tells nothing of others."""
    values: tuple[float, ...]
    """By seed."""

    @property
    def low(self) -> float:
        """The interval's lower end; the mean where there is no interval."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """The interval's upper end; the mean where there is no interval."""
        return self.mean + (self.half or 0.0)

    @property
    def sign(self) -> int:
        """-1 or 1 where the whole interval lies on that side of zero, otherwise 0; one seed has no interval, and 0."""
        if self.half is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def estimate(values: Sequence[float]) -> Estimate:
    """Of one value per seed. ValueError for none, and for what is not finite."""
    given = np.asarray(values, dtype=np.float64)
    if given.size == 0 or not np.isfinite(given).all():
        raise ValueError(f"{list(values)}: an estimate takes at least one value, all finite")
    half = None
    if given.size > 1:
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, given.size - 1))
        half = quantile * float(given.std(ddof=1)) / math.sqrt(given.size)
    return Estimate(mean=float(given.mean()), half=half, values=tuple(given.tolist()))


def difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Of `values` - `reference`, paired by seed. ValueError for other numbers of seeds."""
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values cannot be paired with {len(reference)}; measure both on the same seeds")
    return estimate([a - b for a, b in zip(values, reference, strict=True)])
