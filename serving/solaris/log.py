"""What was served, pair by pair: an entry per read in a stream of the store, which keeps the newest reads alone.

A reader packs an answer before it gives it out (the caller may change its arrays) and appends it later;
`serving.solaris.mirror` takes them into the lake. An entry is `user i64, served time i64, width u32, reader i64,
number i64`, then per pair `item i64, level u8, version u32` and the vector that was served. The reader's random number
and the read's number name the read: a call that timed out is repeated, although the store may have done it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from serving.connection import told
from serving.solaris.answer import PairAnswer
from serving.solaris.store import PairStore

HEAD = struct.Struct("<qqIqq")
FIELD = b"r"


class Entry(NamedTuple):
    """On its way into the log."""

    user: int
    value: bytes


def append(store: PairStore, entries: Sequence[Entry], *, longest: int) -> list[Exception | None]:
    """Log these reads; of each partition the newest `longest` are kept, or a few more. One round trip; of each entry
    the error that it was answered with."""
    pipeline: Any
    with store.redis.pipeline(transaction=False) as pipeline:
        for entry in entries:
            partition = store.keys.keys.partition(entry.user)
            pipeline.xadd(store.keys.log(partition), {FIELD: entry.value}, maxlen=longest, approximate=True)
        found = pipeline.execute(raise_on_error=False)
    return [told(one) if isinstance(one, Exception) else None for one in found]


@lru_cache(maxsize=64)
def pair_type(width: int) -> np.dtype[Any]:
    """Of a pair in an entry."""
    return np.dtype([("item", "<i8"), ("level", "u1"), ("version", "<u4"), ("vector", "<f2", (width,))])


def packed(answer: PairAnswer, *, reader: int, number: int) -> bytes:
    """An entry: the `number`-th read that this reader logs."""
    width = answer.vectors.shape[1]
    rows = np.zeros(len(answer.items), pair_type(width))
    rows["item"], rows["level"], rows["version"] = answer.items, answer.levels, answer.versions
    rows["vector"] = answer.vectors
    return HEAD.pack(answer.user, answer.served_ms, width, reader, number) + rows.tobytes()
