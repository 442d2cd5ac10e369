"""What a number usually is: of the promoted days before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

FAR = 6.0
"""So many spreads from the usual is pointed at."""
_MIN_DAYS = 3
_TO_STANDARD_DEVIATION = 1.4826
_LEAST_SPREAD = 0.01  # of the median: days that were all but equal


@dataclass(frozen=True, kw_only=True)
class Usual:
    """Median of the days, and their spread: the standard deviation, as the median absolute deviation tells it."""

    median: float
    spread: float
    num_days: int

    def spreads(self, value: float) -> float:
        """How far `value` is from it; 0 where too few days say what is usual."""
        if self.num_days < _MIN_DAYS or not math.isfinite(value):
            return 0.0
        return abs(value - self.median) / max(self.spread, _LEAST_SPREAD * abs(self.median), 1e-6)

    def is_far(self, value: float) -> bool:
        """Whether a person should look at it."""
        return self.spreads(value) > FAR


def usual_of(named: Iterable[tuple[str, float | None]]) -> dict[str, Usual]:
    """By name, of all values of that name; None and NaN do not count."""
    values: dict[str, list[float]] = {}
    for name, value in named:
        if value is not None and math.isfinite(value):
            values.setdefault(name, []).append(value)
    return {name: _usual(of) for name, of in values.items()}


def _usual(values: list[float]) -> Usual:
    middle = median(values)
    spread = _TO_STANDARD_DEVIATION * median(abs(value - middle) for value in values)
    return Usual(median=middle, spread=spread, num_days=len(values))
