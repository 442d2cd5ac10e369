"""Lists of ids per row, as Arrow wants them: offsets and flat values, never a Python object per row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import IDS

Ints = npt.NDArray[np.int64]


def slices(values: Ints, starts: Ints, lengths: Ints) -> pa.ListArray:
    """Row i is `values[starts[i] : starts[i] + lengths[i]]`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values[places]), type=IDS)


def singles(values: Ints) -> pa.ListArray:
    """Row i is `[values[i]]`."""
    offsets = np.arange(len(values) + 1, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=IDS)


def empties(num_rows: int) -> pa.ListArray:
    """`num_rows` empty lists."""
    zeros = np.zeros(num_rows, np.int64)
    return slices(np.zeros(0, np.int64), zeros, zeros)
