"""Ids to table rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HASHING = "splitmix64 mod rows"
"""Names the function: rows that another one chose belong to other ids."""
_CHUNK = 16_384
"""Ids hashed at a time: ten passes over them stay within a core's second cache."""


def hash_ids(ids: npt.NDArray[np.int64], num_rows: int) -> None:
    """Replace ids by the rows of a table of `num_rows`, in place: the splitmix64 finaliser, modulo the rows."""
    hashes = ids.view(np.uint64)
    scratch = np.empty(min(_CHUNK, ids.size), dtype=np.uint64)
    for begin in range(0, ids.size, _CHUNK):
        chunk = hashes[begin : begin + _CHUNK]
        _hash(chunk, np.uint64(num_rows), scratch[: chunk.size])


def mixed(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The splitmix64 finaliser alone: a bijection, so that equal hashes are equal ids."""
    hashes = ids.astype(np.uint64)
    _mix(hashes, np.empty_like(hashes))
    return hashes


def _hash(h: npt.NDArray[np.uint64], rows: np.uint64, scratch: npt.NDArray[np.uint64]) -> None:
    _mix(h, scratch)
    reduce_to_rows(h, rows, scratch)


def _mix(h: npt.NDArray[np.uint64], scratch: npt.NDArray[np.uint64]) -> None:
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(h, np.uint64(shift), out=scratch)
        np.bitwise_xor(h, scratch, out=h)
        if multiplier is not None:
            np.multiply(h, np.uint64(multiplier), out=h)


def reduce_to_rows(h: npt.NDArray[np.uint64], rows: np.uint64, scratch: npt.NDArray[np.uint64]) -> None:
    """h mod rows, in place."""
    np.floor_divide(h, rows, out=scratch)  # numpy vectorises this, but not `remainder`
    np.multiply(scratch, rows, out=scratch)
    np.subtract(h, scratch, out=h)
