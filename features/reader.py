"""A day's examples as batches: streamed, shuffled by (seed, day), the same number on every rank."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch

from features.batches import Batch, Encoder
from features.fingerprint import fingerprint
from features.lake import Lake, Partition

WINDOW_ROWS = 65_536
"""Rows are shuffled within windows of about this many, which bounds the reader's memory."""
_PREFETCH = 8
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One row group of one file."""

    fragment: pads.Fragment
    num_rows: int


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
        pieces = _pieces(lake, partition)
        order = np.random.default_rng([self._key, 0]).permutation(len(pieces))
        self._pieces = [pieces[index] for index in order]
        self.num_rows = sum(piece.num_rows for piece in pieces)
        """Rows of the partition, over all ranks."""
        if not self.num_rows:
            raise ValueError(f"{partition.table} ds={partition.ds} has no rows; there is nothing to learn from")
        self.num_batches = -(-self.num_rows // (world_size * batch_size))
        """Batches on every rank."""
        self._bounds = [self.num_rows * r // world_size for r in range(world_size + 1)]
        self._rank = rank

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Batches decoded ahead by a background thread, which ends with the iteration."""
        ready: queue.Queue[Batch | _Failure | None] = queue.Queue(maxsize=_PREFETCH)
        stopped = threading.Event()
        thread = threading.Thread(target=self._fill, args=(ready, stopped), name="day-reader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, _Failure):
                    raise item.error
                yield item
        finally:
            stopped.set()
            thread.join()

    def _fill(self, ready: queue.Queue[Batch | _Failure | None], stopped: threading.Event) -> None:
        def put(item: Batch | _Failure | None) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=_POLL_SECONDS)
                except queue.Full:
                    continue
                return True
            return False

        try:
            for batch in self.batches():
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # the consumer raises it: nothing is lost in a thread
            put(_Failure(error=error))

    def batches(self) -> Iterator[Batch]:
        """The same batches, decoded when asked for."""
        first, last = self._bounds[self._rank], self._bounds[self._rank + 1]
        window_rows = max(WINDOW_ROWS // self._batch_size, 1) * self._batch_size
        position = 0
        windows = _Windows(self._pieces, self._encoder.columns)
        # A rank without rows still takes part in every step, with padding alone.
        for index, start in enumerate(range(first, max(last, first + 1), window_rows)):
            window = windows.read(start, min(start + window_rows, last))
            shuffled = np.random.default_rng([self._key, 1, self._rank, index]).permutation(window.num_rows)
            for offset in range(0, max(window.num_rows, 1), self._batch_size):
                yield self._encode(window, shuffled[offset : offset + self._batch_size], position)
                position += 1
        while position < self.num_batches:
            yield self._encode(window, shuffled[:0], position)
            position += 1

    def _encode(self, window: pa.RecordBatch, rows: np.ndarray[tuple[int], np.dtype[np.int64]], position: int) -> Batch:
        try:
            batch = self._encoder.encode(window.take(pa.array(rows)), num_rows=self._batch_size)
        except ValueError as error:
            raise ValueError(f"{self.partition.table} ds={self.partition.ds} batch {position}: {error}") from error
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

    def read(self, start: int, stop: int) -> pa.RecordBatch:
        """Rows [start, stop) in one contiguous batch."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = [self._load(min(first, len(self._pieces) - 1)).slice(0, 0)]
        index = first
        while index < len(self._pieces) and self._starts[index] < stop:
            low, high = int(self._starts[index]), int(self._starts[index + 1])
            begin, end = max(start, low), min(stop, high)
            parts.append(self._load(index).slice(begin - low, end - begin))
            index += 1
        table = pa.concat_tables(parts).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def _load(self, index: int) -> pa.Table:
        if self._cached is None or self._cached[0] != index:
            table = self._pieces[index].fragment.to_table(columns=self._columns, use_threads=False)
            self._cached = (index, table)
        return self._cached[1]


def _pieces(lake: Lake, partition: Partition) -> list[_Piece]:
    """Every row group of the partition, files in the order of their paths."""
    fragments = sorted(lake.dataset(partition).get_fragments(), key=lambda fragment: str(fragment.path))
    return [
        _Piece(fragment=group, num_rows=group.row_groups[0].num_rows)
        for fragment in fragments
        for group in fragment.split_by_row_group()
    ]
