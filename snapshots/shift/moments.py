"""What the first two moments of two spaces tell, over any number of users: dimensions, rank, eigenspaces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snapshots.shift.rows import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NEGLIGIBLE_STD = 1e-3
"""A dimension whose standard deviation is less than this share of the largest does not vary."""
COLLAPSED = 1e-2
"""A dimension that varied has collapsed when it varies by less than this share of before."""
_NEGLIGIBLE_EIGENVALUE = 1e-10
"""Of the largest: what is smaller is rounding."""


class Moments:
    """Sums over N users of X, Y [N, D] and of their products: X'X, Y'Y and X'Y, [D, D] each."""

    def __init__(self, dim: int) -> None:
        self.num_users = 0
        self._sum_x, self._sum_y = np.zeros(dim), np.zeros(dim)
        self._xx, self._yy, self._xy = (np.zeros((dim, dim)) for _ in range(3))

    def add(self, x: Array, y: Array) -> None:
        """More users, [N, D] each, all of it finite."""
        self.num_users += len(x)
        once = np.ones(len(x))
        self._sum_x += once @ x  # several times as fast as the sum over the first axis
        self._sum_y += once @ y
        self._xx += x.T @ x
        self._yy += y.T @ y
        self._xy += x.T @ y

    def spaces(self) -> Spaces:
        """At least one user."""
        n, mean_x, mean_y = self.num_users, self._sum_x / self.num_users, self._sum_y / self.num_users
        return Spaces(
            num_users=n,
            mean_before=mean_x,
            mean_after=mean_y,
            before=self._xx / n - np.outer(mean_x, mean_x),
            after=self._yy / n - np.outer(mean_y, mean_y),
            across=self._xy / n - np.outer(mean_x, mean_y),
        )


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Means [D] and covariances [D, D] of the same users in two spaces; across: of X with Y."""

    num_users: int
    mean_before: Array
    mean_after: Array
    before: Array
    after: Array
    across: Array

    def statistics(self) -> Iterator[tuple[str, Measured]]:
        """Per-dimension shift, rank and eigenspace instability, by name."""
        yield from self._dimensions()
        yield from self._ranks()
        yield "eigenspace_instability", self._instability()

    def _dimensions(self) -> Iterator[tuple[str, Measured]]:
        """mean_shift: |mean change| in standard deviations of before. std_ratio: after over before. What varies less
        than NEGLIGIBLE_STD of the largest dimension counts as if it varied so much."""
        std_before, std_after = (np.sqrt(np.maximum(np.diag(cov), 0)) for cov in (self.before, self.after))
        floor = NEGLIGIBLE_STD * std_before.max()
        names = ("mean_shift_p50", "mean_shift_max", "std_ratio_min", "std_ratio_p50", "std_ratio_max")
        if floor == 0:
            for name in (*names, "collapsed_dimensions"):
                yield name, Measured(value=math.nan, note="no dimension varied before")
            return
        varied, base = std_before > floor, np.maximum(std_before, floor)
        shift = np.abs(self.mean_after - self.mean_before) / base
        ratio = np.where(varied, std_after, np.maximum(std_after, floor)) / base
        collapsed = np.flatnonzero(varied & (ratio < COLLAPSED))
        yield names[0], Measured(value=float(np.median(shift)))
        yield names[1], _which(shift, int(shift.argmax()))
        yield names[2], _which(ratio, int(ratio.argmin()))
        yield names[3], Measured(value=float(np.median(ratio)))
        yield names[4], _which(ratio, int(ratio.argmax()))
        note = f"dimensions {', '.join(map(str, collapsed))}" if len(collapsed) else ""
        yield "collapsed_dimensions", Measured(value=float(len(collapsed)), note=note)

    def _ranks(self) -> Iterator[tuple[str, Measured]]:
        before, after = effective_rank(self.before), effective_rank(self.after)
        yield "effective_rank", Measured(value=after)
        ratio = after / before if before else math.nan
        yield "effective_rank_ratio", Measured(value=ratio, note="" if before else "no dimension varied before")

    def _instability(self) -> Measured:
        if self.num_users <= len(self.before):
            note = f"{self.num_users} users; more than the {len(self.before)} dimensions are needed"
            return Measured(value=math.nan, note=note)
        return Measured(value=eigenspace_instability(self.before, self.after, self.across))


def effective_rank(covariance: Array) -> float:
    """exp(entropy) of the eigenvalues as shares of their sum: D where all directions vary alike, 1 where one does, 0
    where none does."""
    values = np.maximum(np.linalg.eigvalsh(covariance), 0)
    if values.sum() == 0:
        return 0.0
    shares = values[values > _NEGLIGIBLE_EIGENVALUE * values.max()] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def eigenspace_instability(before: Array, after: Array, across: Array) -> float:
    """Definition 2 of Leszczynski et al. (2020), with X and Y centred, for a consumer has an intercept:

    tr((UU' + VV' - 2 VV'UU') Σ) / tr(Σ), where X = U S W', Y = V R Z', and Σ = XX' + YY' is what a linear consumer of
    either learns. U'V = S^-1 W' X'Y Z R^-1 needs [D, D] alone, and with M = (U'V)^2 element by element, s and r the
    eigenvalues of X'X and Y'Y, it is 1 - Σ_ij M_ij (s_i + r_j) / (Σ s + Σ r).

    0: both span the same directions, whatever the rotation or scale; 1: none in common.
    """
    s, w = _eigenspace(before)
    r, z = _eigenspace(after)
    if not len(s) and not len(r):
        return 0.0
    overlap = (w.T @ across @ z) ** 2 / np.outer(s, r)
    shared = (overlap * (s[:, None] + r[None, :])).sum() / (s.sum() + r.sum())
    return float(np.clip(1 - shared, 0, 1))


def _eigenspace(covariance: Array) -> tuple[Array, Array]:
    """The eigenvalues that are not negligible, [R], and their eigenvectors [D, R]."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > _NEGLIGIBLE_EIGENVALUE * max(values[-1], 0)
    return values[kept], vectors[:, kept]


def _which(values: Array, dimension: int) -> Measured:
    return Measured(value=float(values[dimension]), note=f"dimension {dimension}")
