"""Vectors as strips of coloured cells: inline SVG, one cell per number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapshots.page.html import Html, tag

_CELL, _HEIGHT = 6, 16
_BELOW, _ZERO, _ABOVE = np.array([31, 111, 180]), np.array([247, 248, 250]), np.array([217, 115, 13])
"""Blue, nearly white, orange: told apart by people who do not see red or green."""


def strip(vector: NDArray[Any], *, scale: float, label: str) -> Html:
    """[D] from left to right; the full colours are -scale and +scale."""
    width = _CELL * len(vector)
    shares = np.clip(np.nan_to_num(vector.astype(np.float64)) / (scale or 1.0), -1.0, 1.0)
    cells = [
        tag("rect", x=_CELL * place, width=_CELL, height=_HEIGHT, fill=_colour(float(share)))
        for place, share in enumerate(shares)
    ]
    return tag(
        "svg",
        *cells,
        viewBox=f"0 0 {width} {_HEIGHT}",
        preserveAspectRatio="none",
        class_="strip",
        role="img",
        aria_label=label,
    )


def scale_of(vectors: NDArray[Any]) -> float:
    """What full colours stand for: the 99th percentile of the absolute numbers, so that one outlier fades nothing."""
    finite = np.abs(np.nan_to_num(vectors.astype(np.float64)))
    return float(np.quantile(finite, 0.99)) if finite.size else 0.0


def _colour(share: float) -> str:
    end = _ABOVE if share >= 0 else _BELOW
    red, green, blue = (_ZERO + abs(share) * (end - _ZERO)).round().astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"
