"""Maps from the day's space to that of the promoted snapshot before it (section 5.2, option 2: post-processing).

X [N, K, D] is the new tower's embeddings of a sample of the day's users, Y [N, K, D] the previous snapshot's of the
same users and features. The map is one matrix M [K D, K D], applied to the flattened embeddings from the right,
`u -> u M`, as the last step of the snapshot. Y is itself what that snapshot gives, its own map included: consumers
read the space of the first snapshot for as long as every day is aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.stabilizers import Alignment, BackwardCompatible, Procrustes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNDECIDED = 1e-7
"""Of the mean singular value: directions that the sample leaves open stay as they are."""
_RANK_TOLERANCE = 1e-10
"""Of the largest eigenvalue of X'X: what float32 embeddings hold beneath it is rounding."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A map and how well it fits."""

    kind: str
    matrix: NDArray[np.float32]
    """[K D, K D]."""
    num_users: int
    residual_before: tuple[float, ...]
    """Per embedding, `||X - Y|| / ||Y||` over the sample."""
    residual: tuple[float, ...]
    """Per embedding, `||X M - Y|| / ||Y||`."""
    norm_ratio: tuple[float, ...]
    """Per embedding, `||X M|| / ||X||`: 1 for a rotation; a linear map shortens what it cannot predict."""
    rank: int
    """Of X: below K D, some directions of the space are not used, and the map leaves them as they are."""


def fit(alignment: Alignment, new: NDArray[np.float32], old: NDArray[np.float32]) -> Fitted:
    """The map from `new` to `old`, [N, K, D] each. ValueError: other shapes, no user, or values
    that are not finite."""
    if new.shape != old.shape or new.ndim != 3 or not len(new):
        raise ValueError(f"embeddings of shapes {new.shape} and {old.shape} cannot be aligned; give [N, K, D] of each")
    x, y = new.astype(np.float64), old.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("embeddings with NaN or inf cannot be aligned; look at the training loss")
    rotation = procrustes(x, y)
    match alignment:
        case Procrustes():
            matrix = rotation
        case BackwardCompatible(ridge=ridge):
            matrix = backward_compatible(x, y, ridge=ridge, towards=rotation)
    applied = (x.reshape(len(x), -1) @ matrix).reshape(x.shape)
    return Fitted(
        kind=alignment.kind,
        matrix=matrix.astype(np.float32),
        num_users=len(x),
        residual_before=_ratios(x - y, y),
        residual=_ratios(applied - y, y),
        norm_ratio=_ratios(applied, x),
        rank=_rank(x),
    )


def procrustes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K D, K D], block-diagonal: per embedding the orthogonal R that minimises `||X R - Y||^2`.

    `R = U V'` with `U S V' = svd(X'Y)` (Schönemann, 1966). X'Y gets a trace of the identity: where the sample says
    nothing, as in a collapsed space, R stays near it.
    """
    _, num_embeddings, dim = x.shape
    matrix = np.zeros((num_embeddings, dim, num_embeddings, dim))
    for k in range(num_embeddings):
        matrix[k, :, k] = _rotation(x[:, k], y[:, k])
    return matrix.reshape(num_embeddings * dim, -1)


def _rotation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    cross = x.T @ y
    mean = np.linalg.norm(cross, ord="nuc") / len(cross)
    u, _, vt = np.linalg.svd(cross + _UNDECIDED * (mean or 1.0) * np.eye(len(cross)))
    rotation: NDArray[np.float64] = u @ vt
    return rotation


def backward_compatible(
    x: NDArray[np.float64], y: NDArray[np.float64], *, ridge: float, towards: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[K D, K D]: the M that minimises `||X M - Y||^2 + lambda ||M - R||^2`, X and Y as [N, K D].

    `M = R + (X'X + lambda I)^-1 X'(Y - X R)`, lambda = ridge tr(X'X) / (K D). R is `towards`, a rotation: a penalty on
    M itself would shorten what the sample says little about, a little more every day (backward-compatible embeddings:
    Hu et al., 2022).
    """
    flat, wanted = x.reshape(len(x), -1), y.reshape(len(y), -1)
    gram = flat.T @ flat
    penalty = ridge * np.trace(gram) / len(gram) or 1.0  # all zeros: M is R
    correction = np.linalg.solve(gram + penalty * np.eye(len(gram)), flat.T @ (wanted - flat @ towards))
    matrix: NDArray[np.float64] = towards + correction
    return matrix


def _ratios(of: NDArray[np.float64], to: NDArray[np.float64]) -> tuple[float, ...]:
    """Per embedding, the norm over the sample relative to another; 0 / 0 is 0."""
    norms, others = (np.linalg.norm(values, axis=(0, 2)) for values in (of, to))
    return tuple(float(a / b) if b else 0.0 for a, b in zip(norms, others, strict=True))


def _rank(x: NDArray[np.float64]) -> int:
    flat = x.reshape(len(x), -1)
    eigenvalues = np.linalg.eigvalsh(flat.T @ flat)
    return int((eigenvalues > _RANK_TOLERANCE * max(eigenvalues[-1], 0.0)).sum())
