"""One day's accepted clicks as arrays, in order of time and by session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from features.sources.globo_clicks import Articles
from features.sources.globo_groups import Clicks
from features.sources.ragged import Ints, slices

DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_CONTEXT_IDS = 1_000  # ids per context feature; larger values are read as the largest
_CONTEXT_COLUMNS = (
    "click_environment",
    "click_deviceGroup",
    "click_os",
    "click_country",
    "click_region",
    "click_referrer_type",
)


@dataclass(frozen=True, kw_only=True)
class Day:
    """[n] arrays in order of time, but for `by_session`."""

    number: int
    """Days since 1970 in the source's own day."""
    clicks: Clicks
    start_ms: Ints
    """When the click's session began."""
    size: Ints
    """Clicks of the session on this day: for labels, never for features."""
    category: Ints
    """Of the clicked article, as known at the click."""
    context: tuple[Ints, ...]
    """Ids of each context feature, hour last."""
    by_session: Ints
    """Clicks sorted by session, then time."""
    rank: Ints
    """Each click's place in `by_session`."""

    @classmethod
    def of(cls, accepted: pa.Table, articles: Articles, *, day_starts_ms: int) -> Day:
        """`accepted` as `read_clicks` returns it, at least one row."""
        columns = {name: accepted[name].to_numpy() for name in accepted.column_names}
        user, session = columns["user_id"], columns["session_id"]
        time_ms, start_ms = columns["click_timestamp"], columns["session_start"]
        order = np.lexsort((session, user))  # stable, so by time within a session
        begins = np.ones(len(order), bool)
        begins[1:] = (np.diff(user[order]) != 0) | (np.diff(session[order]) != 0)
        starts = np.flatnonzero(begins)
        visit = np.cumsum(begins) - 1
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        sizes = np.diff(np.append(starts, len(order)))
        hour = (time_ms - day_starts_ms) % DAY_MS // _HOUR_MS
        raw = [*(columns[name] for name in _CONTEXT_COLUMNS), hour]
        return cls(
            number=int((start_ms[0] - day_starts_ms) // DAY_MS),
            clicks=Clicks(
                user=user,
                session=session,
                article=columns["click_article_id"],
                time_ms=time_ms,
                place=rank - starts[visit][rank],
            ),
            start_ms=start_ms,
            size=sizes[visit][rank],
            category=articles.at(columns["click_article_id"], time_ms)[0],
            context=tuple(
                place * _CONTEXT_IDS + np.minimum(values, _CONTEXT_IDS - 1) for place, values in enumerate(raw)
            ),
            by_session=order,
            rank=rank,
        )

    def session_so_far(self, values: Ints, click: Ints, *, length: int) -> pa.ListArray:
        """Per row: `values` of the newest clicks of the session before `click`, oldest first."""
        lengths = np.minimum(self.clicks.place[click], length)
        return slices(values[self.by_session], self.rank[click] - lengths, lengths)

    def session_times(self, click: Ints) -> tuple[Ints, Ints]:
        """Of the click before `click`: ms since the session began, and since the click before it; else 0."""
        place, time_ms = self.clicks.place[click], self.clicks.time_ms
        before = time_ms[self.by_session[np.maximum(self.rank[click] - 1, 0)]]
        second = time_ms[self.by_session[np.maximum(self.rank[click] - 2, 0)]]
        since_start = np.where(place >= 1, before - self.start_ms[click], 0)
        return cast(Ints, since_start), cast(Ints, np.where(place >= 2, before - second, 0))
