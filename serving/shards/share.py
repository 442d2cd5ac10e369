"""A shard's rows of a sealed snapshot, read a piece at a time: a shard never holds the whole tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.fingerprint import file_sha256
from serving.shards.partition import Share
from snapshots.contract import WEIGHTS, Tensor
from snapshots.export import read_contract
from snapshots.seal import MANIFEST, DamagedError, verify
from snapshots.tables import OFFSET, SCALE, TABLES

Rows = NDArray[np.generic]

OF_TABLES = (TABLES, SCALE, OFFSET)
"""The weights that have a row for each row of the tables."""
_PIECE_BYTES = 2 << 20


def find_sealed(snapshots: Path, manifest_sha256: str) -> Path:
    """The folder in `snapshots`, those of a model, whose manifest has this SHA-256. ValueError without one."""
    # the newest day first; what is still being written is hidden
    for manifest in sorted(snapshots.glob(f"[!.]*/{MANIFEST}"), reverse=True):
        if file_sha256(manifest) == manifest_sha256:
            return manifest.parent
    raise ValueError(
        f"no snapshot in {snapshots} has a manifest with SHA-256 {manifest_sha256}; the shard reads the folder that "
        "the worker's registry points to, or a copy of it"
    )


def read_share(folder: Path, share: Share, *, manifest_sha256: str) -> dict[str, Rows]:
    """The share's rows of `tables` (for int8 of `tables.scale` and `tables.offset`), as stored; by name.

    Every checksum is verified first. DamagedError as `snapshots.export.load_snapshot`.
    """
    from safetensors import SafetensorError

    verify(folder, manifest_sha256=manifest_sha256)
    try:
        return {
            weight.name: _read(folder / WEIGHTS, weight, share)
            for weight in read_contract(folder).weights
            if weight.name in OF_TABLES
        }
    except SafetensorError as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); it is not loaded") from error


def row_layout(weight: Tensor) -> tuple[int, np.dtype[np.generic], tuple[int, ...]]:
    """Of a weight of the tables: number of rows, type, shape of one row."""
    num_rows, *row = (int(size) for size in weight.shape)
    return num_rows, np.dtype(weight.dtype), tuple(row)


def _read(path: Path, weight: Tensor, share: Share) -> Rows:
    from safetensors import safe_open

    num_rows, dtype, row = row_layout(weight)
    found = np.empty((share.num_rows(num_rows), *row), dtype)
    row_bytes = dtype.itemsize * math.prod(row)
    step = share.of * max(_PIECE_BYTES // (share.of * row_bytes), 1)
    for begin in range(0, num_rows, step):
        # opened for each piece: while it is open, what was read of the file counts as the process's memory
        with safe_open(path, framework="numpy") as file:
            stored = file.get_slice(weight.name)
            if tuple(stored.get_shape()) != weight.shape:
                raise DamagedError(f"{path} does not hold the weight {weight.name} that its contract describes")
            piece = stored[begin : min(begin + step, num_rows)]
        own = piece[share.index :: share.of]
        found[begin // share.of :][: len(own)] = own
    return found
