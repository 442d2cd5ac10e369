"""How far vectors moved between two versions, per user: what Table 3 of the paper averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Of the same N users, [N] float64 each, in the users' order."""

    cosine: NDArray[np.float64]
    """cos(a, b). Two zero vectors have not moved: 1; one zero vector shares no direction: 0."""
    norm_change: NDArray[np.float64]
    """| |b| - |a| | / |a|: the relative change of the norm. From a zero vector to another: 1."""

    @property
    def num_users(self) -> int:
        """N."""
        return len(self.cosine)


def movement(before: NDArray[Any], after: NDArray[Any]) -> Movement:
    """From `before` to `after`, [N, D] of the same users (section 6.5). Computed in float64."""
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return movement_of(
        dots=np.einsum("nd,nd->n", a, b), norm_before=np.linalg.norm(a, axis=1), norm_after=np.linalg.norm(b, axis=1)
    )


def movement_of(
    *, dots: NDArray[np.float64], norm_before: NDArray[np.float64], norm_after: NDArray[np.float64]
) -> Movement:
    """Of vectors with these scalar products and norms, [N] each."""
    change = np.divide(
        np.abs(norm_after - norm_before), norm_before, out=np.zeros_like(norm_before), where=norm_before > 0
    )
    change[(norm_before == 0) & (norm_after > 0)] = 1.0
    return Movement(cosine=cosine_of(dots, norm_before, norm_after), norm_change=change)


def cosine_of(
    dots: NDArray[np.float64], norm_before: NDArray[np.float64], norm_after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By the rule of `Movement.cosine`, [N]."""
    product = norm_before * norm_after
    cosine = np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)
    cosine[(norm_before == 0) & (norm_after == 0)] = 1.0
    return np.clip(cosine, -1.0, 1.0)
