"""A user's history: `history_…` as of the end of a day, rolled forward one day at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import TIME, user_features_schema
from features.schema import EVENT_TIME, USER_ID
from features.sources.globo import CONTEXT, GloboClicks
from features.sources.globo_day import DAY_MS, Day
from features.sources.ragged import Ints, empties, singles, slices

LISTS = ("history_articles", "history_categories")
COUNTS = ("history_clicks", "history_sessions", "history_days")


class History:
    """The state by user; users it does not know have empty lists and zeros."""

    def __init__(self, state: pa.Table | None, config: GloboClicks) -> None:
        layout = user_features_schema(config.schema)
        known = (layout.empty_table() if state is None else state.select(layout.names)).sort_by(USER_ID)
        self.user: Ints = known[USER_ID].to_numpy()
        self.last_seen_ms: Ints = known[EVENT_TIME].cast(pa.int64()).to_numpy() // 1000
        self._day_starts_ms = int(config.day_starts_at.total_seconds()) * 1000
        # one row more, for the unknown
        self._lists = {
            name: pa.concat_arrays([known[name].combine_chunks().cast(layout.field(name).type), empties(1)])
            for name in LISTS
        }
        self._counts = {name: np.append(known[name].to_numpy(), np.float32(0)) for name in COUNTS}
        self._last_day = (self.last_seen_ms - self._day_starts_ms) // DAY_MS

    def rows(self, users: Ints) -> Ints:
        """The users' rows; `len(self.user)`, the empty one, for the unknown."""
        if len(self.user) == 0:
            return np.zeros(len(users), np.int64)
        rows = np.searchsorted(self.user, users).clip(0, len(self.user) - 1)
        return np.where(self.user[rows] == users, rows, len(self.user))

    def lists(self, name: str, rows: Ints) -> pa.ListArray:
        """One of `LISTS`, oldest click first."""
        return self._lists[name].take(pa.array(rows))

    def counts(self, name: str, rows: Ints) -> npt.NDArray[np.float32]:
        """One of `COUNTS`."""
        return self._counts[name][rows]

    def days_since_seen(self, rows: Ints, day_number: int) -> npt.NDArray[np.float32]:
        """Days from the last event to the day, at least 1; 0 for the unknown."""
        return np.append(day_number - self._last_day, 0)[rows].astype(np.float32)

    def newest_clicks(self) -> tuple[Ints, Ints]:
        """User and article of every user's newest click, oldest first."""
        lists = self._lists["history_articles"].slice(0, len(self.user))
        has = np.diff(lists.offsets.to_numpy()) > 0
        order = np.lexsort((self.user[has], self.last_seen_ms[has]))
        ends = lists.offsets.to_numpy()[1:][has] - 1
        return self.user[has][order], lists.values.to_numpy()[ends][order]


def roll_forward(day: Day, history: History, config: GloboClicks) -> pa.Table:
    """`user_features` of the day: the history with the day's clicks; no session is open; the context is the
    last one seen. `days_since_seen` is 1, as it will be on the day after."""
    clicks = day.clicks
    users, owner = np.unique(clicks.user, return_inverse=True)
    rows = history.rows(users)
    last = np.zeros(len(users), np.int64)
    last[owner] = np.arange(len(owner))  # the newest wins
    num_clicks = np.bincount(owner, minlength=len(users))
    num_sessions = np.bincount(owner[clicks.place == 0], minlength=len(users))
    added = dict(zip(COUNTS, (num_clicks, num_sessions, np.ones(len(users))), strict=True))
    values = dict(zip(LISTS, (clicks.article, day.category), strict=True))
    columns: dict[str, pa.Array] = {
        USER_ID: pa.array(users),
        EVENT_TIME: pa.array(clicks.time_ms[last] * 1000).cast(TIME),
        "user": singles(users),
        **{
            name: _appended(history.lists(name, rows), values[name], owner, length=config.history_length)
            for name in LISTS
        },
        **{f"context_{name}": singles(ids[last]) for name, ids in zip(CONTEXT, day.context, strict=True)},
        **{name: pa.array((history.counts(name, rows) + added[name]).astype(np.float32)) for name in COUNTS},
        "days_since_seen": pa.array(np.ones(len(users), np.float32)),
    }
    nothing = {pa.float32(): pa.array(np.zeros(len(users), np.float32))}
    layout = user_features_schema(config.schema)
    return pa.table(
        [columns.get(field.name, nothing.get(field.type, empties(len(users)))) for field in layout],
        schema=layout,
    )


def _appended(lists: pa.ListArray, values: Ints, owner: Ints, *, length: int) -> pa.ListArray:
    """Each list with its owner's values behind it, the newest `length` kept."""
    before = lists.flatten().to_numpy()
    owners = np.concatenate([np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()), owner])
    order = np.argsort(owners, kind="stable")
    lengths = np.bincount(owners, minlength=len(lists))
    kept = np.minimum(lengths, length)
    return slices(np.concatenate([before, values])[order], np.cumsum(lengths) - kept, kept)
