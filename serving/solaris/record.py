"""What the store keeps of a user's pairs: one representation per item, the newest features' first.

The value is `format u8, 0 u8, count u16, width u16`, then per entry `member i64, version u32, feature time i64, write
time i64` (milliseconds since the epoch, little endian), `priority f32` and the representation, E float16. An item's
record, of whom the neighbours' mean is made, is the same with users for members.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.record import RecordError

FORMAT = 3
"""Beside `serving.record.FORMATS`."""
HEADER = struct.Struct("<BBHH")
HEAD_BYTES = 32
"""Of an entry, before its representation."""


@dataclass(frozen=True)
class PairRecord:
    """entries: [n] of `entry_type`, each member once; some may have outlived their time."""

    entries: NDArray[Any]

    @staticmethod
    def parse(value: bytes) -> PairRecord:
        """A record out of the store's bytes, not copied. RecordError for anything else."""
        if len(value) < HEADER.size:
            raise RecordError(f"a record of {len(value)} bytes; it has {HEADER.size} or more")
        form, _, count, width = HEADER.unpack_from(value)
        if form != FORMAT:
            raise RecordError(f"a record of format {form}; pairs have {FORMAT}")
        if not count or len(value) != HEADER.size + count * (HEAD_BYTES + 2 * width):
            raise RecordError(f"a record of {count} pairs of {width} numbers in {len(value)} bytes")
        return PairRecord(np.frombuffer(value, entry_type(width), count, HEADER.size))

    def alive(self, *, now_ms: float, ttl_seconds: float, width: int) -> NDArray[Any]:
        """[n]: the entries of this width that were written less than `ttl_seconds` ago."""
        if self.entries["vector"].shape[1] != width:
            return np.empty(0, entry_type(width))
        young = self.entries["write_ms"] > now_ms - 1000 * ttl_seconds
        return self.entries if young.all() else self.entries[young]


@lru_cache(maxsize=64)
def entry_type(width: int) -> np.dtype[Any]:
    """Of one entry, packed."""
    return np.dtype(
        [
            ("member", "<i8"), ("version", "<u4"), ("feature_ms", "<i8"), ("write_ms", "<i8"), ("priority", "<f4"),
            ("vector", "<f2", (width,)),
        ]
    )  # fmt: skip


def header(width: int) -> bytes:
    """Of a record without entries."""
    return HEADER.pack(FORMAT, 0, 0, width)
