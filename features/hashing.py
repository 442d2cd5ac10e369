"""Ids to table rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_CHUNK = 16_384
"""Ids hashed at a time: ten passes over them stay within a core's second cache."""


def hash_ids(ids: npt.NDArray[np.int64], sizes: Sequence[int], num_rows: Sequence[int]) -> None:
    """Replace ids by table rows, in place: the splitmix64 finaliser, modulo the table's rows.

    `ids` holds segments of `sizes` ids; segment i belongs to a table of `num_rows[i]` rows.
    """
    hashes = ids.view(np.uint64)
    scratch = np.empty(min(_CHUNK, max(sizes, default=0)), dtype=np.uint64)
    start = 0
    for size, rows in zip(sizes, num_rows, strict=True):
        for begin in range(start, start + size, _CHUNK):
            chunk = hashes[begin : min(begin + _CHUNK, start + size)]
            _hash(chunk, np.uint64(rows), scratch[: chunk.size])
        start += size


def _hash(h: npt.NDArray[np.uint64], rows: np.uint64, scratch: npt.NDArray[np.uint64]) -> None:
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(h, np.uint64(shift), out=scratch)
        np.bitwise_xor(h, scratch, out=h)
        if multiplier is not None:
            np.multiply(h, np.uint64(multiplier), out=h)
    np.floor_divide(h, rows, out=scratch)  # numpy vectorises this, but not `remainder`
    np.multiply(scratch, rows, out=scratch)
    np.subtract(h, scratch, out=h)
