"""The distribution of one number per user, over any number of users, in the memory of a histogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from snapshots.shift.rows import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]

QUANTILES = {"p05": 0.05, "p50": 0.50, "p95": 0.95}
BINS = 20_000


class Distribution:
    """Mean, minimum and maximum are exact; a quantile is within one of BINS equal bins of the scale that `to_unit`
    takes to [0, 1]."""

    def __init__(self, to_unit: Scale, from_unit: Scale) -> None:
        self._to_unit, self._from_unit = to_unit, from_unit
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._total = self._squares = 0.0
        self._low, self._high = math.inf, -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """[N] more values, all of them finite."""
        if not len(values):
            return
        bins = np.minimum((self._to_unit(values) * BINS).astype(np.int64), BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)
        self._total += float(values.sum())
        self._squares += float(values @ values)
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    @property
    def num_users(self) -> int:
        """How many values it has seen."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """NaN of nothing."""
        return self._total / self.num_users if self.num_users else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean, as that of a sample of many more."""
        variance = max(self._squares / self.num_users - self.mean**2, 0.0)
        return math.sqrt(variance / max(self.num_users - 1, 1))

    def quantile(self, q: float) -> float:
        """Between the two values whose ranks are next to q (N - 1), as NumPy's default; NaN of nothing."""
        if not self.num_users:
            return math.nan
        rank = min(max(q, 0.0), 1.0) * (self.num_users - 1)
        low, high = self._ranked(math.floor(rank)), self._ranked(math.ceil(rank))
        return low + (high - low) * (rank - math.floor(rank))

    def _ranked(self, rank: int) -> float:
        """About the value of this rank, from 0: the values of a bin are taken to be spread evenly over it."""
        ends = np.cumsum(self._counts)
        bin_ = int(np.searchsorted(ends, rank, side="right"))
        within = (rank - (ends[bin_] - self._counts[bin_]) + 0.5) / self._counts[bin_]
        value = float(self._from_unit(np.array([(bin_ + within) / BINS]))[0])
        return min(max(value, self._low), self._high)

    def statistics(self, name: str, *, sampled: bool) -> Iterator[tuple[str, Measured]]:
        """`<name>_mean`, `<name>_p05` …; sampled: with the standard error of a sample of many more users."""
        yield f"{name}_mean", Measured(value=self.mean, error=self.standard_error if sampled else None)
        for quantile, q in QUANTILES.items():
            error = None
            if sampled:  # of the ranks that are one standard error away, half their distance
                away = math.sqrt(q * (1 - q) / self.num_users)
                error = (self.quantile(q + away) - self.quantile(q - away)) / 2
            yield f"{name}_{quantile}", Measured(value=self.quantile(q), error=error)


def cosines() -> Distribution:
    """Of cosines: bins of 0.0001."""
    return Distribution(lambda cosine: (cosine + 1) / 2, lambda unit: 2 * unit - 1)


def norm_changes() -> Distribution:
    """Of x in [0, inf): bins of 0.00005 (1 + x)^2."""
    return Distribution(lambda x: x / (1 + x), lambda unit: unit / np.maximum(1 - unit, 0.5 / BINS))
