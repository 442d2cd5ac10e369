"""What a number usually is: of the promoted days before, as the gate has it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from snapshots.judgement import usual
from snapshots.judgement.usual import Usual
from trainer.gate import Relative

_RELATIVE = Relative(worse=("lower", "higher"), floor=0.005, floor_share=0.01)
FAR = _RELATIVE.spreads
"""Spreads from the usual, on either side, that a person should look at, whatever the gate's rules say."""


def usual_of(named: Iterable[tuple[str, float | None]]) -> dict[str, Usual]:
    """By name, of all values of that name, however few; None and NaN do not count."""
    values: dict[str, list[float]] = {}
    for name, value in named:
        if value is not None and math.isfinite(value):
            values.setdefault(name, []).append(value)
    found = {name: usual.usual_of(of, _RELATIVE, min_days=1) for name, of in values.items()}
    return {name: of for name, of in found.items() if of is not None}


def spreads(value: float, of: Usual | None, *, min_days: int) -> float:
    """How far `value` is from the usual, in spreads; 0 where fewer than `min_days` days say what is usual."""
    if of is None or of.num_days < min_days or not math.isfinite(value):
        return 0.0
    return abs(value - of.median) / of.spread
