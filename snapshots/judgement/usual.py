"""What is usual of a metric: its median, spread and extremes over the trailing promoted days."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshots.judgement.values import Key

if TYPE_CHECKING:
    from trainer.gate import Relative

MAD_TO_SIGMA = 1.4826  # of a normal distribution
Trailing = Mapping[Key, tuple[float, ...]]
"""The values of the trailing promoted days, in any order."""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """Of `num_days` promoted days."""

    median: float
    spread: float
    lowest: float
    highest: float
    num_days: int

    def limits(self, relative: Relative) -> tuple[float | None, float | None]:
        """(below this is worse than usual, above this is), None on a side that is not worse."""
        far = relative.spreads * self.spread
        low = min(self.median - far, self.lowest - self.spread) if "lower" in relative.worse else None
        high = max(self.median + far, self.highest + self.spread) if "higher" in relative.worse else None
        return low, high


def usual_of(values: Iterable[float], relative: Relative, *, min_days: int) -> Usual | None:
    """None when fewer than `min_days` of the values are numbers."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < min_days:
        return None
    median = statistics.median(known)
    deviation = statistics.median(abs(value - median) for value in known)
    floor = max(relative.floor, relative.floor_share * abs(median))
    return Usual(
        median=median,
        spread=max(MAD_TO_SIGMA * deviation, floor),
        lowest=min(known),
        highest=max(known),
        num_days=len(known),
    )
