"""A day's examples as batches: streamed, shuffled by (seed, day), the same number on every rank."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch

from features.ahead import ahead
from features.batches import Batch, Encoder
from features.columns import Ids
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.selection import Selection
from features.windows import Piece, Windows, examples_of

log = logging.getLogger(__name__)

WINDOW_ROWS = 65_536
"""Rows are shuffled within windows of about this many,"""
WINDOW_BYTES = 128 * 2**20
"""or fewer, so that a window takes about this much as Arrow columns. It bounds the reader's memory: a row group, a
window as read and as encoded, and the batches that wait are there at once."""
_VALUE_BYTES = 8
_WAITING_BATCHES = 64


class DayReader:
    """One rank's share of a partition, as an iterable of `Batch`; every iteration gives the same order.

    The partition's row groups are permuted by (seed, ds); each rank owns one contiguous slice of that order,
    equal to the others' within one row, and shuffles it window by window. Every example is read exactly once
    over all ranks, and every rank has `num_batches` batches of `batch_size` rows; the last is padded.
    where: only the examples that every one of these selects; the rest of the day is as if it were not there.
    """

    def __init__(
        self,
        lake: Lake,
        partition: Partition,
        encoder: Encoder,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        where: Sequence[Selection] = (),
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} ranks")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch has at least one row")
        self.partition = partition
        self._encoder = encoder
        self._batch_size = batch_size
        self._world_size = world_size
        self._key = int(fingerprint(seed, partition.ds)[:15], 16)
        require_columns(lake.dataset(partition), partition, encoder)
        pieces = examples_of(lake, partition, where)
        order = np.random.default_rng([self._key, 0]).permutation(len(pieces))
        self._pieces = [pieces[index] for index in order]
        self.num_rows = sum(piece.num_rows for piece in pieces)
        """Rows of the partition, or of it those selected, over all ranks."""
        self.num_batches = -(-self.num_rows // (world_size * batch_size))
        """Batches on every rank."""
        self._window_rows = self._rows_of_a_window(pieces)
        self._bounds = [self.num_rows * r // world_size for r in range(world_size + 1)]
        self._rank = rank
        # Enough to work on while the next window is read, and never more than a window's memory.
        self._num_waiting = min(self._window_rows // batch_size, _WAITING_BATCHES)

    def _rows_of_a_window(self, pieces: list[Piece]) -> int:
        """Whole batches, the same number on every rank."""
        values = sum(piece.num_values(self._encoder.columns) for piece in pieces)
        stored = sum(int(piece.fragment.row_groups[0].num_rows) for piece in pieces)
        fitting = WINDOW_BYTES * stored // (_VALUE_BYTES * max(values, 1))
        return max(min(WINDOW_ROWS, fitting) // self._batch_size, 1) * self._batch_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Batches decoded ahead by a background thread, which ends with the iteration."""
        return self.read_from(0)

    def read_from(self, position: int) -> Iterator[Batch]:
        """As `iter`, without the first `position` batches."""
        return ahead(self.batches(position), waiting=self._num_waiting, name="day-reader")

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The same batches from the one at `first` on, decoded when asked for; of those before it only the ones
        in its window are decoded."""
        start, stop = self._bounds[self._rank], self._bounds[self._rank + 1]
        windows = Windows(self._pieces, self._encoder.columns)
        per_window = self._window_rows // self._batch_size
        position = first
        # A rank without rows still takes part in every step, with padding alone.
        for index in range(first // per_window, -(-(stop - start) // self._window_rows)):
            begin = start + index * self._window_rows
            window = windows.read(begin, min(begin + self._window_rows, stop))
            shuffled = np.random.default_rng([self._key, 1, self._rank, index]).permutation(window.num_rows)
            batches = self._encode(window, shuffled, index * per_window)
            for batch in islice(batches, position - index * per_window, None):
                yield self._counted(batch, position)
                position += 1
        if position < self.num_batches:
            nothing = windows.read(stop, stop)
            for padding in range(position, self.num_batches):
                yield self._counted(self._encoder.encode(nothing, num_rows=self._batch_size), padding)

    def largest(self, batch: Batch) -> tuple[str, float]:
        """The dense column with the largest absolute value of the batch, and that value, transformed."""
        return self._encoder.largest(batch)

    def _encode(self, window: pa.Table, order: Ids, position: int) -> Iterator[Batch]:
        """The window in this order, as the batches from `position` on."""
        try:
            return self._encoder.batches(window, order=order, batch_size=self._batch_size)
        except ValueError:
            return self._encode_one_by_one(window, order, position)

    def _encode_one_by_one(self, window: pa.Table, order: Ids, position: int) -> Iterator[Batch]:
        """For a window that holds something wrong: the batches before it, then an error that says where it is."""
        for start in range(0, order.size, self._batch_size):
            rows = window.take(pa.array(order[start : start + self._batch_size]))
            try:
                yield self._encoder.encode(rows, num_rows=self._batch_size)
            except ValueError as error:
                at = position + start // self._batch_size
                raise ValueError(f"{self.partition.table} ds={self.partition.ds} batch {at}: {error}") from error

    def _counted(self, batch: Batch, position: int) -> Batch:
        batch.num_examples = torch.tensor(self._examples_in(position) / self._world_size)
        return batch

    def _examples_in(self, position: int) -> int:
        """Examples over all ranks in the step at `position`: known everywhere, without asking the others."""
        start = position * self._batch_size
        sizes = (last - first for first, last in zip(self._bounds, self._bounds[1:], strict=False))
        return sum(min(max(size - start, 0), self._batch_size) for size in sizes)


def require_columns(dataset: pads.Dataset, partition: Partition, encoder: Encoder) -> None:
    """ValueError unless the day has every column that is not optional. One that is newer than the day, or that the day
    was built without, reads as null in every row, and would count as empty."""
    fragments = list(dataset.get_fragments())
    written = {name for fragment in fragments for name in fragment.physical_schema.names}
    lacking = [name for name in encoder.columns if fragments and (name not in written or _is_null(dataset, name))]
    if unexpected := [name for name in lacking if name not in encoder.optional]:
        raise ValueError(
            f"{partition.table} ds={partition.ds} was built without the columns {unexpected}; they would count as "
            "empty. Build the day again with a source that has them, begin with the first day that has them, or mark "
            "the features optional in the schema"
        )
    if lacking:
        log.warning("%s ds=%s lacks the optional columns %s: empty", partition.table, partition.ds, lacking)


def _is_null(dataset: pads.Dataset, name: str) -> bool:
    """Whether no row has a value: a day that lacks a column of its table is written with nulls there."""
    first = dataset.head(1, columns=[name], batch_readahead=0, fragment_readahead=0)
    if not first.num_rows or first.column(name).null_count == 0:
        return False
    return not dataset.head(1, columns=[name], filter=pc.field(name).is_valid()).num_rows
