"""What the synthetic world draws at random, told apart: two uses of one id never share bits."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

LATENT = 8
"""Z, dimensions of a taste."""

Floats = npt.NDArray[np.float64]


class Draw(IntEnum):
    """What a draw is for. New ones go to the end: a number is part of every world that uses it."""

    TASTE = 0
    ANCHOR = 1
    PHASE = 2
    ITEM = 3
    ACTIVITY = 4
    ARRIVAL = 5
    ANGLE = 6
    DENSE = 7
    PLANE = 8
    STAGGER = 9
    DEVICE = 10
    INTENT = 11
    ROTATION = 12
