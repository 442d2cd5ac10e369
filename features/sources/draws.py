"""Random draws addressed by keys rather than by order: the same (seed, keys) give the same value, whatever
else is drawn. What happens to one row, user or day can so never change the draws of another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64] | npt.NDArray[np.uint64] | int
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(seed: int, *keys: Keys) -> npt.NDArray[np.uint64]:
    """64 uniform bits per broadcast element of `keys` (splitmix64, chained over the keys)."""
    state = np.atleast_1d(np.uint64(seed))
    for key in keys:
        wide = np.asarray(key)
        if wide.dtype != np.uint64:
            wide = wide.astype(np.int64).view(np.uint64)
        state = _scramble((state ^ wide) + _GOLDEN)
    return state


def _scramble(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(seed: int, *keys: Keys) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), 53 bits."""
    return (mix(seed, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def triangular(seed: int, *keys: Keys) -> npt.NDArray[np.float64]:
    """Sum of two uniforms minus one: in (-1, 1), mean 0. One hash a draw."""
    bits = mix(seed, *keys)
    low = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64)
    high = (bits >> np.uint64(32)).astype(np.float64)
    return (low + high) * 2.0**-32 - 1.0


def normal(seed: int, *keys: Keys) -> npt.NDArray[np.float64]:
    """Standard normal (Box and Muller, from the two halves of one hash)."""
    bits = mix(seed, *keys)
    radius = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
