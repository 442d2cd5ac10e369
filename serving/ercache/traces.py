"""Traces of requests: who asked, and when; out of real logs, and how their repeat requests lie in time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.lake import Lake
from features.schema import EVENT_TIME, USER_ID
from features.source import Source
from features.sources.globo import GloboClicks
from infra.settings import Settings

Ints = NDArray[np.int64]

PUBLISHED = ((60.0, 0.52), (600.0, 0.76))
"""ERCache's access pattern, from summaries of the paper: seconds, and the share of repeat inferences within them."""
STAMPED_GAP_MS = 30_000
"""The portal's log stamps the last click of every session exactly so long after the one before it."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """N requests in order of time; requests of the same millisecond are in the order in which they came."""

    name: str
    times_ms: Ints
    """[N], ascending."""
    users: Ints
    """[N]."""

    def __post_init__(self) -> None:
        if not self.times_ms.size:
            raise ValueError(f"trace {self.name} has no request; choose days with examples or clicks")
        if self.times_ms.shape != self.users.shape:
            raise ValueError(f"trace {self.name}: {self.times_ms.size} times of {self.users.size} users; one each")
        if np.any(np.diff(self.times_ms) < 0):
            raise ValueError(f"trace {self.name}: the times go back; sort the requests by time")

    def __len__(self) -> int:
        return int(self.times_ms.size)

    @cached_property
    def by_user(self) -> ByUser:
        """The same requests, user by user."""
        return ByUser.of(self)

    @cached_property
    def gaps_ms(self) -> Ints:
        """[N - users], ascending: the time from a user's request to the same user's next."""
        grouped = self.by_user
        within = grouped.starts[1:] == grouped.starts[:-1]
        return np.sort(np.diff(grouped.times_ms)[within])

    @property
    def num_users(self) -> int:
        """Users with at least one request."""
        return len(self) - int(self.gaps_ms.size)

    def share_within(self, seconds: float | Sequence[float]) -> NDArray[np.float64]:
        """The share of repeat requests that come within so long of the user's last one (the CDF of the gaps)."""
        places = np.searchsorted(self.gaps_ms, 1000 * np.asarray(seconds, np.float64), side="right")
        return np.asarray(places / max(self.gaps_ms.size, 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class ByUser:
    """A trace's requests ordered by (user, time); [N] each."""

    order: Ints
    """Places in the trace."""
    times_ms: Ints
    starts: Ints
    """Where the request's user begins."""
    keys: Ints
    """Ascending: user and time in one number."""
    span: int
    """What one user takes of `keys`."""
    first_ms: int

    @classmethod
    def of(cls, trace: Trace) -> ByUser:
        """Stable: a user's requests of one millisecond stay in their order."""
        order = np.argsort(trace.users, kind="stable")
        users, times = trace.users[order], trace.times_ms[order]
        begins = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
        sizes = np.diff(np.append(begins, users.size))
        first = int(trace.times_ms[0])
        span = int(trace.times_ms[-1]) - first + 2  # one later than every time is still the user's own
        keys = np.repeat(np.arange(begins.size), sizes) * span + times - first
        return cls(order=order, times_ms=times, starts=np.repeat(begins, sizes), keys=keys, span=span, first_ms=first)

    def next_at(self, times_ms: Ints) -> Ints:
        """[N]: for each request the place of its user's first request after it at `times_ms` or later; N: none."""
        after_first = np.minimum(times_ms - self.first_ms, self.span - 1)
        user = self.keys - (self.times_ms - self.first_ms)
        found = np.maximum(np.searchsorted(self.keys, user + after_first), np.arange(1, self.keys.size + 1))
        starts = np.append(self.starts, self.keys.size)  # whoever comes after the last user is none of them
        return np.where(starts[found] == self.starts, found, self.keys.size)

    def in_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """[N] values of the requests, put back into the trace's order."""
        found = np.empty_like(values)
        found[self.order] = values
        return found


def of_requests(name: str, users: Ints, times_ms: Ints) -> Trace:
    """A trace of requests in any order; those of one time are ordered by user."""
    order = np.lexsort((users, times_ms))
    return Trace(name=name, times_ms=times_ms[order], users=users[order])


def of_clicks(source: GloboClicks, days: Iterable[date], *, settings: Settings, stamped: bool = True) -> Trace:
    """Every valid click of the portal's landed log is a request.

    stamped: keep the last click of a session that is stamped exactly 30 s after the one before it. It has no time of
    its own, so the share of gaps within a minute says more of the log than of its users; without them it is theirs.
    """
    reader = source.open(landing=settings.landing, data_dir=settings.data_dir)
    kept = [_clicks(reader.read(ds).accepted, stamped=stamped) for ds in days]
    users, times = (np.concatenate([part[column] for part in kept]) for column in (0, 1))
    return of_requests(source.name if stamped else f"{source.name} without stamped clicks", users, times)


def _clicks(accepted: pa.Table, *, stamped: bool) -> tuple[Ints, Ints]:
    users, sessions, times = (accepted[name].to_numpy() for name in ("user_id", "session_id", "click_timestamp"))
    if stamped:
        return users, times
    order = np.lexsort((times, sessions, users))
    users, sessions, times = users[order], sessions[order], times[order]
    same = (users[1:] == users[:-1]) & (sessions[1:] == sessions[:-1])
    last = np.append(~same, True)
    drop = last & np.insert(same & (np.diff(times) == STAMPED_GAP_MS), 0, False)
    return users[~drop], times[~drop]


def of_examples(source: Source, days: Iterable[date], *, lake: Lake) -> Trace:
    """Every event of the lake's examples is a request: examples that share user and time are one."""
    users: list[Ints] = []
    times: list[Ints] = []
    for ds in days:
        rows = lake.read(lake.get(f"examples/{source.name}", ds), columns=[USER_ID, EVENT_TIME])
        rows = rows.group_by([USER_ID, EVENT_TIME]).aggregate([])
        times.append(rows[EVENT_TIME].cast(pa.int64()).to_numpy() // 1000)
        users.append(rows[USER_ID].to_numpy())
    return of_requests(source.name, np.concatenate(users), np.concatenate(times))
