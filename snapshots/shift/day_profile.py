"""The examples of one day in a few numbers: how many, in which hours, with how many positives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import column_of
from features.schema import EVENT_TIME
from features.validation import day_bounds
from features.windows import pieces_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from features.lake import Lake, Partition
    from features.selection import Selection
    from features.source import Source

HOURS = 24
THIN = 0.1
"""An hour with a smaller share of the events that it had the day before is missing."""
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class DayProfile:
    """hours: [24], examples by the hour of the day's own bounds. positives: by task."""

    num_examples: int
    hours: NDArray[np.int64]
    span_hours: float
    """From the first event to the last."""
    positives: Mapping[str, int]

    def missing_share(self, before: DayProfile) -> float:
        """The share of the day before's examples that fell into hours which are missing now.

        Hours are compared as shares of their days, so that a quiet day misses nothing.
        """
        if not self.num_examples or not before.num_examples:
            return float(before.num_examples > 0)
        usual, found = before.hours / before.num_examples, self.hours / self.num_examples
        missing: float = usual[found < THIN * usual].sum()
        return float(missing)

    def hours_moved(self, before: DayProfile) -> float:
        """Total variation between the hours of the two days: the share of examples that changed their hour."""
        usual, found = (day.hours / max(day.num_examples, 1) for day in (before, self))
        return float(np.abs(usual - found).sum() / 2)


def profile_day(lake: Lake, examples: Partition, source: Source, *, where: Sequence[Selection] = ()) -> DayProfile:
    """One pass over the times and labels of those examples of a partition that `where` selects."""
    start = int(day_bounds(examples.ds, source.day_starts_at)[0].timestamp()) * 1_000_000
    hours = np.zeros(HOURS, dtype=np.int64)
    tasks = source.schema.tasks
    positives = dict.fromkeys(tasks, 0)
    first, last, num_examples = None, None, 0
    dataset = lake.dataset(examples)
    columns = [name for name in (EVENT_TIME, *tasks) if name in dataset.schema.names]
    for piece in pieces_of(dataset, where):
        batch = piece.read(columns)
        if not batch.num_rows:
            continue
        times = column_of(batch, EVENT_TIME).cast(pa.int64()).to_numpy()
        hours += np.bincount(np.clip((times - start) // _HOUR_US, 0, HOURS - 1), minlength=HOURS)
        num_examples += batch.num_rows
        first = int(times.min()) if first is None else min(first, int(times.min()))
        last = int(times.max()) if last is None else max(last, int(times.max()))
        for task in tasks:
            if task in columns:
                positives[task] += pc.sum(batch.column(task)).as_py() or 0
    span = 0.0 if first is None or last is None else (last - first) / _HOUR_US
    return DayProfile(num_examples=num_examples, hours=hours, span_hours=span, positives=positives)
