"""How far single users moved since the last promoted day, of a sample: what the histograms are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.hashing import hash_ids
from features.lake import Lake, Partition
from features.schema import USER_ID
from snapshots.embedder import ROWS_PER_BATCH
from snapshots.embeddings import POOLINGS, to_vectors
from snapshots.movement import Movement, movement

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_USERS = 20_000
_HASHES = 2**62


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One vector column of the sampled users."""

    embedding: int
    pooled: bool
    movement: Movement
    dimensions: NDArray[np.float64]
    """[D]: mean absolute change, in standard deviations of the dimension over the users before."""


def sampled_movement(
    lake: Lake, before: Partition, after: Partition, *, num_embeddings: int, dim: int
) -> Iterator[Sampled]:
    """Of about SAMPLE_USERS of the users in both partitions, the same ones each time; nothing where there are none.

    Memory: the sample, and a batch of rows.
    """
    share = min(1.0, SAMPLE_USERS / max(lake.dataset(after).count_rows(), 1))
    for prefix in POOLINGS:
        for k in range(num_embeddings):
            ids_a, a = _sample(lake, before, f"{prefix}_{k}", dim=dim, share=share)
            ids_b, b = _sample(lake, after, f"{prefix}_{k}", dim=dim, share=share)
            common, rows_a, rows_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
            if common.size:
                yield _sampled(a[rows_a], b[rows_b], embedding=k, pooled=prefix == "pooled")


def _sampled(a: NDArray[np.float32], b: NDArray[np.float32], *, embedding: int, pooled: bool) -> Sampled:
    change = np.abs(b.astype(np.float64) - a).mean(axis=0)
    spread = a.astype(np.float64).std(axis=0)
    return Sampled(
        embedding=embedding,
        pooled=pooled,
        movement=movement(a, b),
        dimensions=np.divide(change, spread, out=np.zeros_like(change), where=spread > 0),
    )


def _sample(
    lake: Lake, partition: Partition, column: str, *, dim: int, share: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(ids [N], vectors [N, D]) of the users whose ids hash lowest."""
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for rows in lake.dataset(partition).to_batches(columns=[USER_ID, column], batch_size=ROWS_PER_BATCH):
        hashes = rows.column(USER_ID).to_numpy().copy()
        hash_ids(hashes, _HASHES)
        drawn = rows.filter(pa.array(hashes < share * _HASHES))
        if drawn.num_rows:
            ids.append(drawn.column(USER_ID).to_numpy())
            vectors.append(to_vectors(drawn.column(column), dim=dim))
    return np.concatenate(ids), np.concatenate(vectors)
