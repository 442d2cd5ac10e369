"""Which rows of every table may differ from the day's first weights: those that were looked up.

The tables' optimizer runs inside backward and moves no other row. A row is marked where its id is handed to the model,
in the coordinates of the whole table, so that the sharding plan has no part in it; marked and not moved is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from features.batches import Batch
from features.schema import SIDES
from trainer.carryover.compare import table_shapes, table_weights
from trainer.config import TrainingConfig

Rows = npt.NDArray[np.int64]


class Touched:
    """One byte per row of every table: this rank's, until `merge`."""

    def __init__(self, config: TrainingConfig) -> None:
        shapes = table_shapes(config)
        self.marks = torch.zeros(sum(rows for rows, _ in shapes.values()), dtype=torch.uint8)
        """All tables, one after another: what a waypoint holds of it."""
        marks, begin = self.marks.numpy(), 0
        self._of: dict[str, npt.NDArray[np.uint8]] = {}
        for name, (rows, _) in shapes.items():
            self._of[name] = marks[begin : begin + rows]
            begin += rows
        weights = table_weights(config)
        self._tables = {
            side: {feature.name: self._of[weights[side, feature.table]] for feature in config.schema.sparse_of(side)}
            for side in SIDES
        }

    @property
    def tables(self) -> list[str]:
        """By the names of their weights."""
        return list(self._of)

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each marked before it is handed out."""
        for batch in batches:
            self.mark(batch)
            yield batch

    def mark(self, batch: Batch) -> None:
        """What the model looks up for a batch, which is not on a device yet."""
        for side, ids in zip(SIDES, (batch.user_sparse, batch.item_sparse), strict=True):
            rows, offsets = ids.values().numpy(), ids.offset_per_key()
            for key, begin, end in zip(ids.keys(), offsets, offsets[1:], strict=False):
                self._tables[side][key][rows[begin:end]] = 1

    def add(self, weights: str, rows: Rows) -> None:
        """Rows of a table, by the name of its weights, that something other than a lookup has changed, or had before:
        the base's increment, an evicted id."""
        self._of[weights][rows] = 1

    def merge(self, device: torch.device) -> None:
        """Every rank's, on every rank. A collective; device: the process group's."""
        merged = self.marks.to(device)
        dist.all_reduce(merged, op=dist.ReduceOp.MAX)
        self.marks.copy_(merged)

    def rows(self, weights: str, *, begin: int, end: int) -> Rows:
        """The marked rows in [begin, end), ascending."""
        return np.flatnonzero(self._of[weights][begin:end]) + begin

    def shares(self) -> dict[str, float]:
        """Marked rows over all, by the table's own name."""
        return {
            weights.removesuffix(".weight").rpartition(".")[2]: round(float(marks.mean()), 6)
            for weights, marks in self._of.items()
        }
