"""A day's examples as batches: streamed, shuffled by (seed, day), the same number on every rank."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch

from features.batches import Batch, Encoder
from features.columns import Ids
from features.fingerprint import fingerprint
from features.lake import Lake, Partition, fragments_of

log = logging.getLogger(__name__)

WINDOW_ROWS = 65_536
"""Rows are shuffled within windows of about this many,"""
WINDOW_BYTES = 128 * 2**20
"""or fewer, so that a window takes about this much as Arrow columns. It bounds the reader's memory: a row group, a
window as read and as encoded, and the batches that wait are there at once."""
_VALUE_BYTES = 8
_WAITING_BATCHES = 64
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One row group of one file."""

    fragment: pads.Fragment
    num_rows: int
    schema: pa.Schema
    """The table's: a column that the file lacks reads as null."""

    def read(self, columns: list[str]) -> pa.Table:
        """These columns of all rows."""
        return self.fragment.to_table(schema=self.schema, columns=columns, use_threads=False)

    def num_values(self, columns: list[str]) -> int:
        """Ids and numbers in these columns, as Parquet counts them (an empty list is one)."""
        (group,) = self.fragment.row_groups
        chunks = self.fragment.metadata.row_group(group.id)
        found = (chunks.column(index) for index in range(chunks.num_columns))
        wanted = set(columns)
        return sum(chunk.num_values for chunk in found if chunk.path_in_schema.partition(".")[0] in wanted)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What the background thread died of."""

    error: BaseException


class DayReader:
    """One rank's share of a partition, as an iterable of `Batch`; every iteration gives the same order.

    The partition's row groups are permuted by (seed, ds); each rank owns one contiguous slice of that order,
    equal to the others' within one row, and shuffles it window by window. Every example is read exactly once
    over all ranks, and every rank has `num_batches` batches of `batch_size` rows; the last is padded.
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
        dataset = lake.dataset(partition)
        require_columns(dataset, partition, encoder)
        pieces = _pieces(dataset)
        order = np.random.default_rng([self._key, 0]).permutation(len(pieces))
        self._pieces = [pieces[index] for index in order]
        self.num_rows = sum(piece.num_rows for piece in pieces)
        """Rows of the partition, over all ranks."""
        if not self.num_rows:
            raise ValueError(f"{partition.table} ds={partition.ds} has no rows; there is nothing to learn from")
        self.num_batches = -(-self.num_rows // (world_size * batch_size))
        """Batches on every rank."""
        self._window_rows = self._rows_of_a_window(pieces)
        self._bounds = [self.num_rows * r // world_size for r in range(world_size + 1)]
        self._rank = rank
        # Enough to work on while the next window is read, and never more than a window's memory.
        self._num_waiting = min(self._window_rows // batch_size, _WAITING_BATCHES)

    def _rows_of_a_window(self, pieces: list[_Piece]) -> int:
        """Whole batches, the same number on every rank."""
        values = sum(piece.num_values(self._encoder.columns) for piece in pieces)
        fitting = WINDOW_BYTES * self.num_rows // (_VALUE_BYTES * max(values, 1))
        return max(min(WINDOW_ROWS, fitting) // self._batch_size, 1) * self._batch_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Batches decoded ahead by a background thread, which ends with the iteration."""
        return self.read_from(0)

    def read_from(self, position: int) -> Iterator[Batch]:
        """As `iter`, without the first `position` batches."""
        ready: queue.Queue[Batch | _Failure | None] = queue.Queue(maxsize=self._num_waiting)
        stopped = threading.Event()
        thread = threading.Thread(target=self._fill, args=(ready, stopped, position), name="day-reader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, _Failure):
                    raise item.error
                yield item
        finally:
            stopped.set()
            thread.join()

    def _fill(self, ready: queue.Queue[Batch | _Failure | None], stopped: threading.Event, position: int) -> None:
        def put(item: Batch | _Failure | None) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=_POLL_SECONDS)
                except queue.Full:
                    continue
                return True
            return False

        try:
            for batch in self.batches(position):
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # the consumer raises it: nothing is lost in a thread
            put(_Failure(error=error))

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The same batches from the one at `first` on, decoded when asked for; of those before it only the ones
        in its window are decoded."""
        start, stop = self._bounds[self._rank], self._bounds[self._rank + 1]
        windows = _Windows(self._pieces, self._encoder.columns)
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


class _Windows:
    """Reads ranges of the concatenated pieces, keeping the last piece for the range that continues it."""

    def __init__(self, pieces: list[_Piece], columns: list[str]) -> None:
        self._pieces = pieces
        self._columns = columns
        self._starts = np.concatenate([[0], np.cumsum([piece.num_rows for piece in pieces])])
        self._cached: tuple[int, pa.Table] | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop)."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for index in range(first, len(self._pieces)):
            low, high = int(self._starts[index]), int(self._starts[index + 1])
            if low >= stop:
                break
            begin, end = max(start, low), min(stop, high)
            parts.append(self._load(index).slice(begin - low, end - begin))
        return pa.concat_tables(parts or [self._load(len(self._pieces) - 1).slice(0, 0)])

    def _load(self, index: int) -> pa.Table:
        if self._cached is None or self._cached[0] != index:
            table = self._pieces[index].read(self._columns)
            self._cached = (index, table)
        return self._cached[1]


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
    return dataset.head(1, columns=[name], filter=pc.field(name).is_valid()).num_rows == 0


def _pieces(dataset: pads.Dataset) -> list[_Piece]:
    """Every row group of the partition, files in the order of their paths."""
    return [
        _Piece(fragment=group, num_rows=group.row_groups[0].num_rows, schema=dataset.schema)
        for fragment in fragments_of(dataset)
        for group in fragment.split_by_row_group()
    ]
