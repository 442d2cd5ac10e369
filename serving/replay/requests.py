"""A day's requests: one user at one instant. The examples that share both are candidates of one request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from features.windows import Windows, pieces_of

Ints = npt.NDArray[np.int64]

_ROWS_AT_A_TIME = 32_768


@dataclass(frozen=True, kw_only=True)
class Requests:
    """[R] in the order of (user, time)."""

    user: Ints
    time_ms: Ints
    first_row: Ints
    """The request's first example, by place in the partition: it carries the features logged with the request."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, users: Ints, times_ms: Ints) -> Requests:
        """The requests of examples, [N] each."""
        order = np.lexsort((np.arange(len(users)), times_ms, users))
        user, time = users[order], times_ms[order]
        begins = np.ones(len(user), dtype=np.bool_)
        begins[1:] = (np.diff(user) != 0) | (np.diff(time) != 0)
        return cls(user=user[begins], time_ms=time[begins], first_row=order[begins])

    @property
    def first_ms(self) -> Ints:
        """When the user of each came first, [R]."""
        _, first, counts = np.unique(self.user, return_index=True, return_counts=True)
        times: Ints = np.repeat(self.time_ms[first], counts)
        return times

    def places(self, users: Ints, times_ms: Ints) -> Ints:
        """Which request each example is of, [N]."""
        distinct, first = np.unique(self.user, return_index=True)
        low, span = int(self.time_ms.min()), int(np.ptp(self.time_ms)) + 1
        counts = np.diff(np.append(first, len(self.user)))
        keys = np.repeat(np.arange(len(distinct)), counts) * span + (self.time_ms - low)
        places: Ints = np.searchsorted(keys, np.searchsorted(distinct, users) * span + (times_ms - low))
        return places


def read_requests(lake: Lake, examples: Partition) -> Requests:
    """Of a day's examples. ValueError where they are not in the order of event time, in which they are learnt."""
    rows = _columns(lake, examples)
    times = times_ms(rows.column(EVENT_TIME))
    if bool((np.diff(times) < 0).any()):
        row = int(np.argmax(np.diff(times) < 0)) + 1
        raise ValueError(
            f"{examples.table} ds={examples.ds}: row {row} is earlier than the one before it; a source gives its "
            "examples in the order of event time: build the day again"
        )
    return Requests.of(rows.column(USER_ID).to_numpy(), times)


def times_ms(column: pa.ChunkedArray | pa.Array) -> Ints:
    """Event times as milliseconds since 1970, as the store keeps feature times."""
    whole: Ints = column.cast(pa.int64()).to_numpy(zero_copy_only=False) // 1_000
    return whole


def first_rows(
    lake: Lake, examples: Partition, requests: Requests, columns: list[str]
) -> Iterator[tuple[Ints, pa.Table]]:
    """Every request's first example, some at a time in the partition's order: their places among the requests, and
    the columns."""
    pieces = pieces_of(lake.dataset(examples))
    windows = Windows(pieces, columns)
    order = np.argsort(requests.first_row, kind="stable")
    rows = requests.first_row[order]
    for start in range(0, sum(piece.num_rows for piece in pieces), _ROWS_AT_A_TIME):
        begin, end = np.searchsorted(rows, [start, start + _ROWS_AT_A_TIME])
        if end > begin:
            last = int(rows[end - 1]) + 1
            yield order[begin:end], windows.read(start, last).take(pa.array(rows[begin:end] - start))


def _columns(lake: Lake, examples: Partition) -> pa.Table:
    pieces = pieces_of(lake.dataset(examples))
    return pa.concat_tables([piece.read([USER_ID, EVENT_TIME]) for piece in pieces])
