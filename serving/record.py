"""What the feature store keeps per (model, user): the last three computed vectors, newest feature time first.

The value is `format u8, count u8, K u16, D u16`, then per entry `version u32, feature time i64, write time i64`
(milliseconds since the epoch, little endian) and K * D float16. Computed vectors are kept and pooled when they are
read, so that nothing pooled is pooled again (section 5.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainer.serving import Pool

KEPT = 3
"""Entries per record."""
LOOKBACK_SECONDS = 14 * 86_400.0
"""An entry whose features are so much older than the newest one's goes, as in `snapshots.pooling`."""
FORMATS: dict[Pool, int] = {"computations": 1, "versions": 2}
"""The first byte: by which rule entries are merged. A record of another rule than its model's is begun anew."""
HEADER = struct.Struct("<BBHH")
ENTRY = struct.Struct("<Iqq")


class RecordError(ValueError):
    """A value of the store that is no record."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One computed vector. vectors: [K, D] float16. The store itself says when it was written."""

    version: int
    feature_ms: int
    vectors: NDArray[np.float16]

    def packed(self) -> bytes:
        """As a record holds it, with a write time of 0."""
        return ENTRY.pack(self.version, self.feature_ms, 0) + np.ascontiguousarray(self.vectors, "<f2").tobytes()


@dataclass(frozen=True)
class Record:
    """The entries of one (model, user), newest feature time first; at least one.

    entries: [n] structured: version, feature_ms, write_ms, vectors [K, D] float16.
    """

    entries: NDArray[Any]

    @staticmethod
    def parse(value: bytes) -> Record:
        """A record out of the store's bytes, not copied. RecordError for anything else."""
        if len(value) < HEADER.size:
            raise RecordError(f"a record of {len(value)} bytes; it has {HEADER.size} or more")
        form, count, num_embeddings, dim = HEADER.unpack_from(value)
        if form not in FORMATS.values():
            raise RecordError(f"a record of format {form}; this code reads {sorted(FORMATS.values())}")
        size = ENTRY.size + 2 * num_embeddings * dim
        if not 1 <= count <= KEPT or len(value) != HEADER.size + count * size:
            raise RecordError(f"a record of {count} entries, K = {num_embeddings}, D = {dim} in {len(value)} bytes")
        return Record(np.frombuffer(value, entry_type(num_embeddings, dim), count, HEADER.size))

    def pooled(self, most: int = KEPT) -> NDArray[np.float16]:
        """[K, D]: the mean of the `most` newest entries in float32, rounded; the same bits as `snapshots.pooling`."""
        vectors = self.entries["vectors"][:most].astype(np.float32)
        total = vectors[0] + sum(vectors[1:], np.float32(0))  # in the order of there
        rounded: NDArray[np.float16] = (total / np.float32(len(vectors))).astype(np.float16)
        return rounded


@lru_cache(maxsize=64)
def entry_type(num_embeddings: int, dim: int) -> np.dtype[Any]:
    """Of one entry, packed."""
    return np.dtype(
        [("version", "<u4"), ("feature_ms", "<i8"), ("write_ms", "<i8"), ("vectors", "<f2", (num_embeddings, dim))]
    )


def header(num_embeddings: int, dim: int, pool: Pool = "computations") -> bytes:
    """Of a record without entries."""
    return HEADER.pack(FORMATS[pool], 0, num_embeddings, dim)
