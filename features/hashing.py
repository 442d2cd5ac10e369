"""Ids to table rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def hash_ids(ids: npt.NDArray[np.int64], sizes: Sequence[int], num_rows: Sequence[int]) -> None:
    """Replace ids by table rows, in place: the splitmix64 finaliser, modulo the table's rows.

    `ids` holds segments of `sizes` ids; segment i belongs to a table of `num_rows[i]` rows.
    """
    h = ids.view(np.uint64)
    scratch = np.empty_like(h)
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(h, np.uint64(shift), out=scratch)
        np.bitwise_xor(h, scratch, out=h)
        if multiplier is not None:
            np.multiply(h, np.uint64(multiplier), out=h)
    start = 0
    for size, rows in zip(sizes, num_rows, strict=True):
        segment, quotient = h[start : start + size], scratch[start : start + size]
        np.floor_divide(segment, np.uint64(rows), out=quotient)  # numpy vectorises this, but not `remainder`
        np.multiply(quotient, np.uint64(rows), out=quotient)
        np.subtract(segment, quotient, out=segment)
        start += size
