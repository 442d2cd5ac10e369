"""The user tower's embedding tables as a snapshot holds them: one matrix of all tables, in the recipe's precision.

fp32: as trained. fp16: rounded. int8: every row in steps of its own, `row = steps * scale + offset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "fp16", "int8"]

TABLES, SCALE, OFFSET = "tables", "tables.scale", "tables.offset"
_STEPS = 255
_ROWS_AT_A_TIME = 1 << 20


def table_weights(tables: Sequence[torch.Tensor], precision: Precision, *, dim: int) -> dict[str, torch.Tensor]:
    """`tables` [rows, D] float32, one below the other: `tables` [R, D], for int8 uint8 with `tables.scale` and
    `tables.offset` [R] float32. Nothing without tables. ValueError for a weight that float16 cannot hold.
    """
    import torch

    if not tables:
        return {}
    num_rows = sum(len(table) for table in tables)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[precision]
    found = {TABLES: torch.empty(num_rows, dim, dtype=kind)}
    if precision == "int8":
        found |= {SCALE: torch.empty(num_rows), OFFSET: torch.empty(num_rows)}
    row = 0
    for table in tables:
        for part in torch.split(table, _ROWS_AT_A_TIME):
            for name, values in _quantised(part, precision).items():
                found[name][row : row + len(part)] = values
            row += len(part)
    return found


def _quantised(rows: torch.Tensor, precision: Precision) -> dict[str, torch.Tensor]:
    import torch

    if precision == "int8":
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        scale = (high - low) / _STEPS
        scale[scale == 0] = 1.0  # all values of the row are the same: its offset
        steps = ((rows - low[:, None]) / scale[:, None]).round().clamp(0, _STEPS).nan_to_num()  # scale tells of the NaN
        return {TABLES: steps.to(torch.uint8), SCALE: scale, OFFSET: low}
    if precision == "fp16":
        largest = rows.abs().max() if rows.numel() else rows.new_zeros(())
        if largest > torch.finfo(torch.float16).max:
            raise ValueError(f"a table holds the weight {largest}, more than a float16 can; export fp32 or int8 tables")
    return {TABLES: rows}


def pooled(weights: dict[str, torch.Tensor], rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The mean of the table rows of each bag, [bags, D] float32; zeros for an empty one.

    rows: [n] int64; offsets: [bags + 1] int64, bag b is rows[offsets[b] : offsets[b + 1]]. Any device.
    """
    import torch
    from torch.nn.functional import embedding, embedding_bag

    tables = weights[TABLES]
    if SCALE not in weights:
        means = embedding_bag(rows, tables, offsets, mode="mean", include_last_offset=True)
        return means if means.dtype == torch.float32 else means.float()
    steps = embedding(rows, tables).float()
    place = torch.ones_like(rows).cumsum(0) - 1  # an arange that is on the device of its input
    scaled = embedding_bag(
        place, steps, offsets, mode="sum", include_last_offset=True, per_sample_weights=weights[SCALE][rows]
    )
    begun = embedding_bag(rows, weights[OFFSET][:, None], offsets, mode="mean", include_last_offset=True)
    return begun + scaled / (offsets[1:] - offsets[:-1]).clamp(min=1)[:, None]
