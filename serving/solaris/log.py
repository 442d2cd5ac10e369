"""What was served, pair by pair: an entry per read in a stream of the store, which keeps the newest reads alone.

A reader appends them after its answers; `serving.solaris.mirror` takes them into the lake. An entry is `user i64,
served time i64, width u32`, then per pair `item i64, level u8, version u32` and the vector that was served.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from serving.solaris.answer import PairAnswer
from serving.solaris.store import PairStore

HEAD = struct.Struct("<qqI")
FIELD = b"r"


def append(store: PairStore, answers: Sequence[PairAnswer], *, longest: int) -> None:
    """Log these reads; of each partition the newest `longest` are kept, or a few more. One round trip."""
    pipeline: Any
    with store.redis.pipeline(transaction=False) as pipeline:
        for answer in answers:
            partition = store.keys.keys.partition(answer.user)
            pipeline.xadd(store.keys.log(partition), {FIELD: packed(answer)}, maxlen=longest, approximate=True)
        pipeline.execute()


@lru_cache(maxsize=64)
def pair_type(width: int) -> np.dtype[Any]:
    """Of a pair in an entry."""
    return np.dtype([("item", "<i8"), ("level", "u1"), ("version", "<u4"), ("vector", "<f2", (width,))])


def packed(answer: PairAnswer) -> bytes:
    """An entry."""
    width = answer.vectors.shape[1]
    rows = np.zeros(len(answer.items), pair_type(width))
    rows["item"], rows["level"], rows["version"] = answer.items, answer.levels, answer.versions
    rows["vector"] = answer.vectors
    return HEAD.pack(answer.user, answer.served_ms, width) + rows.tobytes()
