"""Whether the vectors of one day's users are distributed like those of another's, whoever they are.

Every function takes samples X [N, D] of the day before and Y [M, D] of the day.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snapshots.shift.moments import NEGLIGIBLE_STD
from snapshots.shift.rows import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

POPULATION_USERS = 10_000
MMD_USERS = 1_000
FEWEST_USERS = 50
"""Of either day: of fewer nothing is said."""
WASSERSTEIN_LIMIT = 0.1
"""A dimension has drifted when it is further than this, in standard deviations of the day before."""
_PSI_BINS = 10
_PSI_LEAST_SHARE = 1e-4
_FOLDS = 5
_SHRINKAGE = 0.5
_BANDWIDTH_USERS = 256
METRICS = ("classifier_auc", "wasserstein_share", "wasserstein_max", "psi_mean", "psi_max", "mmd")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Users of one day in the order of their hashes: [N] and [N, D] float64, all of it finite."""

    hashes: NDArray[np.uint64]
    vectors: Array


def population_statistics(before: Sample, after: Sample) -> Iterator[tuple[str, Measured]]:
    """Every one of METRICS; NaN with a note where a day has fewer than FEWEST_USERS."""
    fewest = min(len(before.hashes), len(after.hashes))
    if fewest < FEWEST_USERS:
        note = f"{fewest} users on one of the days; at least {FEWEST_USERS} are needed"
        yield from ((name, Measured(value=math.nan, note=note)) for name in METRICS)
        return
    yield "classifier_auc", classifier_auc(before, after)
    yield from _wasserstein(before.vectors, after.vectors)
    yield from _psi(before.vectors, after.vectors)
    yield "mmd", mmd(before, after)


def classifier_auc(before: Sample, after: Sample) -> Measured:
    """AUC of telling the days apart by Fisher's linear discriminant, w = S^-1 (mean_y - mean_x).

    S is the days' mean covariance, shrunk half-way to a sphere of the same size: else directions in which hardly
    anything varies, and from which no consumer learns much, tell any two days apart. The mean over folds of users, so
    that w is not learnt from anybody's other day. 0.5: they cannot be told apart. Error by DeLong et al. (1988), as if
    the days had no user in common.
    """
    folds = [_Fold.of(before, after, fold) for fold in range(_FOLDS)]
    found = []
    for fold in folds:
        others = [other for other in folds if other is not fold]
        direction = _discriminant(others)
        found.append(auc(fold.x @ direction, fold.y @ direction))
    value = sum(value for value, _ in found) / _FOLDS
    return Measured(value=value, error=math.sqrt(sum(variance for _, variance in found)) / _FOLDS)


@dataclass(frozen=True, kw_only=True)
class _Fold:
    x: Array
    y: Array

    @classmethod
    def of(cls, before: Sample, after: Sample, fold: int) -> _Fold:
        x, y = (day.vectors[day.hashes % np.uint64(_FOLDS) == fold] for day in (before, after))
        return cls(x=x, y=y)


def _discriminant(folds: list[_Fold]) -> Array:
    x, y = np.concatenate([fold.x for fold in folds]), np.concatenate([fold.y for fold in folds])
    of_x, of_y = (np.atleast_2d(np.cov(day, rowvar=False)) for day in (x, y))
    covariance = (of_x + of_y) / 2
    sphere = np.eye(len(covariance)) * (np.trace(covariance) / len(covariance) or 1.0)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere
    direction: Array = np.linalg.solve(shrunk, y.mean(axis=0) - x.mean(axis=0))
    return direction


def auc(negatives: Array, positives: Array) -> tuple[float, float]:
    """P(positive > negative) + P(equal) / 2 of scores [N] and [M], and its variance (DeLong)."""
    by_positive = _share_below(negatives, positives)  # [M]
    by_negative = 1 - _share_below(positives, negatives)  # [N]
    variance = sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (by_positive, by_negative))
    return float(by_positive.mean()), float(variance)


def _share_below(scores: Array, of: Array) -> Array:
    ordered = np.sort(scores)
    below, not_above = (np.searchsorted(ordered, of, side=side) for side in ("left", "right"))
    share: Array = (below + not_above) / (2 * len(scores))
    return share


def wasserstein(x: Array, y: Array) -> Array:
    """The first Wasserstein distance of every dimension, [D]: the area between the distribution functions."""
    both = np.concatenate([x, y]).T  # [D, N + M]
    order = np.argsort(both, axis=1)
    ordered, is_x = np.take_along_axis(both, order, axis=1), order < len(x)
    gap = np.cumsum(np.where(is_x, 1 / len(x), -1 / len(y)), axis=1)
    area: Array = (np.abs(gap[:, :-1]) * np.diff(ordered, axis=1)).sum(axis=1)
    return area


def _wasserstein(x: Array, y: Array) -> Iterator[tuple[str, Measured]]:
    """The share of dimensions beyond WASSERSTEIN_LIMIT (as Evidently has it), and the furthest. The error of a distance
    is about that of a mean; the share's is half of what lies within it of the limit."""
    std = x.std(axis=0)
    if std.max() == 0:
        note = "no dimension varied before"
        yield from ((name, Measured(value=math.nan, note=note)) for name in ("wasserstein_share", "wasserstein_max"))
        return
    distance = wasserstein(x, y) / np.maximum(std, NEGLIGIBLE_STD * std.max())
    error, furthest = math.sqrt(1 / len(x) + 1 / len(y)), int(distance.argmax())
    above, below = (float((distance > WASSERSTEIN_LIMIT + by).mean()) for by in (error, -error))
    share = float((distance > WASSERSTEIN_LIMIT).mean())
    yield "wasserstein_share", Measured(value=share, error=(below - above) / 2, note=f"limit {WASSERSTEIN_LIMIT:g}")
    yield "wasserstein_max", Measured(value=float(distance[furthest]), error=error, note=f"dimension {furthest}")


def psi(x: Array, y: Array) -> tuple[Array, Array]:
    """The population stability index of every dimension and its standard error by the delta method, [D] each.

    PSI = Σ (p_b - q_b) ln(p_b / q_b) over bins that end at the deciles of x; q of x, p of y, and a share
    of less than 0.0001 counts as that. About (B - 1) (1/N + 1/M) of two samples of the same.
    """
    edges = np.quantile(x, np.linspace(0, 1, _PSI_BINS + 1)[1:-1], axis=0).T  # [D, B - 1]
    q, p = (np.maximum(_shares(day, edges), _PSI_LEAST_SHARE) for day in (x, y))
    log_ratio = np.log(p / q)
    by_p, by_q = log_ratio + 1 - q / p, -log_ratio + 1 - p / q  # the derivatives of PSI
    variance = _variance(by_p, p) / len(y) + _variance(by_q, q) / len(x)
    return ((p - q) * log_ratio).sum(axis=1), np.sqrt(variance)


def _shares(day: Array, edges: Array) -> Array:
    """[D, B]: the share of users in every bin, a value on an edge in the bin above it."""
    ordered = np.sort(day.T, axis=1)
    ends = [np.searchsorted(values, cuts, side="left") for values, cuts in zip(ordered, edges, strict=True)]
    shares: Array = np.diff(np.array(ends), axis=1, prepend=0, append=len(day)) / len(day)
    return shares


def _variance(values: Array, shares: Array) -> Array:
    variance: Array = (shares * values**2).sum(axis=1) - (shares * values).sum(axis=1) ** 2
    return np.maximum(variance, 0)


def _psi(x: Array, y: Array) -> Iterator[tuple[str, Measured]]:
    values, errors = psi(x, y)
    most = int(values.argmax())
    yield "psi_mean", Measured(value=float(values.mean()), error=float(errors.mean()))
    yield "psi_max", Measured(value=float(values[most]), error=float(errors[most]), note=f"dimension {most}")


def mmd(before: Sample, after: Sample) -> Measured:
    """The squared maximum mean discrepancy of MMD_USERS of either day, unbiased (Gretton et al. 2012, Eq. 3): may be
    below 0.

    k(x, y) = exp(-|x - y|^2 / (2 s^2)), s the median distance. Pairs of one user on both days are left out: they are
    not independent. Error: that of the means over x and over y, which is too large where the days are the same.
    """
    x, y = (day.vectors[:MMD_USERS] for day in (before, after))
    width = _median_distance(np.concatenate([x[:_BANDWIDTH_USERS], y[:_BANDWIDTH_USERS]]))
    if width == 0:
        return Measured(value=0.0, note="all vectors are the same")
    within_x, within_y, across = (np.exp(_squared_distances(*of) / (-2 * width**2)) for of in ((x, x), (y, y), (x, y)))
    others = before.hashes[:MMD_USERS, None] != after.hashes[None, :MMD_USERS]
    across *= others
    mean_x, mean_y = ((within.sum(axis=1) - 1) / (len(within) - 1) for within in (within_x, within_y))
    value = mean_x.mean() + mean_y.mean() - 2 * across.sum() / others.sum()
    by_x = mean_x - across.sum(axis=1) / others.sum(axis=1)
    by_y = mean_y - across.sum(axis=0) / others.sum(axis=0)
    error = 2 * math.sqrt(by_x.var(ddof=1) / len(x) + by_y.var(ddof=1) / len(y))
    return Measured(value=float(value), error=error)


def _squared_distances(x: Array, y: Array) -> Array:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :]
    distances: Array = np.maximum(squares - 2 * (x @ y.T), 0)
    return distances


def _median_distance(vectors: Array) -> float:
    """Of those that are not 0."""
    distances = np.sqrt(_squared_distances(vectors, vectors)[np.triu_indices(len(vectors), 1)])
    apart = distances[distances > 0]
    return float(np.median(apart)) if len(apart) else 0.0
