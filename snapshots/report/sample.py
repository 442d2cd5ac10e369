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
    share = min(1.0, SAMPLE_USERS / max(lake.num_rows(after), 1))
    names = {f"{prefix}_{k}": (prefix == "pooled", k) for prefix in POOLINGS for k in range(num_embeddings)}
    ids_a, of_a = _sample(lake, before, list(names), dim=dim, share=share)
    ids_b, of_b = _sample(lake, after, list(names), dim=dim, share=share)
    common, rows_a, rows_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    for name, (pooled, k) in names.items() if common.size else ():
        yield _sampled(of_a[name][rows_a], of_b[name][rows_b], embedding=k, pooled=pooled)


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
    lake: Lake, partition: Partition, columns: list[str], *, dim: int, share: float
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
    """(ids [N], vectors [N, D] by column) of the users whose ids hash lowest."""
    ids = [np.empty(0, np.int64)]
    vectors = {column: [np.empty((0, dim), np.float32)] for column in columns}
    for rows in lake.dataset(partition).to_batches(columns=[USER_ID, *columns], batch_size=ROWS_PER_BATCH):
        hashes = rows.column(USER_ID).to_numpy().copy()
        hash_ids(hashes, _HASHES)
        drawn = rows.filter(pa.array(hashes < share * _HASHES))
        if drawn.num_rows:
            ids.append(drawn.column(USER_ID).to_numpy())
            for column in columns:
                vectors[column].append(to_vectors(drawn.column(column), dim=dim))
    return np.concatenate(ids), {column: np.concatenate(parts) for column, parts in vectors.items()}
