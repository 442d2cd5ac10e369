"""How far vectors moved between two versions, per user: what Table 3 of the paper averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embeddings import to_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = {"p05": 0.05, "p50": 0.50, "p95": 0.95}


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

    def statistics(self) -> dict[str, float]:
        """`cosine_mean`, `cosine_p05` …, `norm_change_mean` …; N is at least 1."""
        found: dict[str, float] = {}
        for name, values in (("cosine", self.cosine), ("norm_change", self.norm_change)):
            found[f"{name}_mean"] = float(values.mean())
            cuts = np.quantile(values, list(QUANTILES.values()))
            found |= {f"{name}_{quantile}": float(cut) for quantile, cut in zip(QUANTILES, cuts, strict=True)}
        return found


def movement(before: NDArray[np.float32], after: NDArray[np.float32]) -> Movement:
    """From `before` to `after`, [N, D] of the same users (section 6.5)."""
    a, b = before.astype(np.float64), after.astype(np.float64)
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = norm_a * norm_b
    dots = np.einsum("nd,nd->n", a, b)
    cosine = np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)
    cosine[(norm_a == 0) & (norm_b == 0)] = 1.0
    change = np.divide(np.abs(norm_b - norm_a), norm_a, out=np.zeros_like(norm_a), where=norm_a > 0)
    change[(norm_a == 0) & (norm_b > 0)] = 1.0
    return Movement(cosine=np.clip(cosine, -1.0, 1.0), norm_change=change)


def common_movement(lake: Lake, before: Partition, after: Partition, *, column: str, dim: int) -> Movement:
    """Of the users that both partitions of embeddings hold, by one vector column; ordered by user id."""
    ids_before, vectors_before = _column(lake, before, column, dim=dim)
    ids_after, vectors_after = _column(lake, after, column, dim=dim)
    _, rows_before, rows_after = np.intersect1d(ids_before, ids_after, assume_unique=True, return_indices=True)
    return movement(vectors_before[rows_before], vectors_after[rows_after])


def _column(
    lake: Lake, partition: Partition, column: str, *, dim: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    rows = lake.read(partition, columns=[USER_ID, column])
    return rows.column(USER_ID).to_numpy(), to_vectors(rows.column(column), dim=dim)
