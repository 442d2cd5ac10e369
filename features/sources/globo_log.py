"""Examples and user features of the Globo.com clicks.

Examples. Every click is a group of the clicked article and sampled ones (`globo_groups`); the group shares
user side and event time. `click`: 1 for the clicked. `engaged`: 1 for the clicked if at least two more clicks
of the same session follow within the day.

User side. `history_…` is the state as of the end of the day before; the user's earlier sessions of the same
day are not in it. `session_…` ends with the click before this one. No feature knows the time since that
click (the log stamps a session's last click exactly 30 s after the one before) or the session's size.

Item side. Category, words and age come from the articles' metadata as known at the event: an article without
metadata, or "created" only later, is unknown. Unknown is category 0 with words and age at a constant near the
median, so that nothing but category 0 says so; as negatives are clicks too, unknown articles are about as
frequent among them as among positives. Age is in whole hours. The publisher is left out: all have the same.

`user_features` of a day is also the state from which the next day's is rolled.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrow import TIME, examples_schema
from features.schema import EVENT_TIME, USER_ID
from features.source import Landed
from features.sources.globo import CONTEXT, GloboClicks
from features.sources.globo_clicks import Articles, read_articles, read_clicks
from features.sources.globo_day import Day
from features.sources.globo_groups import Candidates, candidates
from features.sources.globo_state import COUNTS, LISTS, History, roll_forward
from features.sources.ragged import Ints, singles
from features.validation import day_bounds

_BATCH_ROWS = 65_536
_FOLLOWING = 2  # clicks of the session after an engaged one, at least
_REMEDY = "land it there, or set USERMODEL_DATA_DIR to the folder that holds globo/"


class GloboLog:
    """The logs `clicks_<ds>.csv.gz` and the metadata `articles/*.csv` of one folder."""

    def __init__(self, config: GloboClicks, *, data_dir: Path | None) -> None:
        self.config = config
        self._data_dir = data_dir

    @property
    def state_days(self) -> int:
        """Days before ds in which a user's history is looked for."""
        return self.config.state_days

    def log_files(self, ds: date) -> list[Path]:
        """The day's clicks, then the parts of the articles' metadata."""
        return [*self._find(f"clicks_{ds}.csv.gz"), *self._find("articles/*.csv")]

    def _find(self, pattern: str) -> list[Path]:
        if self._data_dir is None:
            raise FileNotFoundError(
                f"{self.config.name}: {pattern} cannot be found, as no data folder is set; "
                "set USERMODEL_DATA_DIR to the folder that holds globo/"
            )
        tried = [self._data_dir / "globo", self._data_dir]
        for folder in tried:
            if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
                return found
        looked_for = " and ".join(str(folder / pattern) for folder in tried)
        raise FileNotFoundError(f"{self.config.name}: the log is missing: looked for {looked_for}; {_REMEDY}")

    @cached_property
    def _articles(self) -> Articles:
        return read_articles(self._find("articles/*.csv"))

    def read(self, ds: date) -> Landed:
        """The day's clicks; `globo_clicks.read_clicks` says what is rejected."""
        clicks, *_ = self.log_files(ds)
        return read_clicks(clicks, bounds=day_bounds(ds, self.config.day_starts_at))

    def _day(self, accepted: pa.Table) -> Day:
        day_starts_ms = int(self.config.day_starts_at.total_seconds()) * 1000
        return Day.of(accepted, self._articles, day_starts_ms=day_starts_ms)

    def examples(self, accepted: pa.Table, state: pa.Table | None) -> Iterator[pa.RecordBatch]:
        """The groups in order of time."""
        day, history = self._day(accepted), History(state, self.config)
        before_user, before_article = history.newest_clicks()
        rows = candidates(day.clicks, before_user=before_user, before_article=before_article, config=self.config)
        of_user = history.rows(day.clicks.user)
        layout = examples_schema(self.config.schema)
        for start in range(0, len(rows.click), _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            click = rows.click[part]
            columns = (
                _event(day, click)
                | self._history(history, of_user[click], day.number)
                | self._session(day, click)
                | self._item_and_labels(day, rows, part)
            )
            yield pa.RecordBatch.from_arrays([columns[name] for name in layout.names], schema=layout)

    def user_features(self, accepted: pa.Table, state: pa.Table | None) -> pa.Table:
        """The state with the day's clicks; see `globo_state.roll_forward`."""
        return roll_forward(self._day(accepted), History(state, self.config), self.config)

    def _history(self, history: History, rows: Ints, day_number: int) -> dict[str, pa.Array]:
        return {
            **{name: history.lists(name, rows) for name in LISTS},
            **{name: pa.array(history.counts(name, rows)) for name in COUNTS},
            "days_since_seen": pa.array(history.days_since_seen(rows, day_number)),
        }

    def _session(self, day: Day, click: Ints) -> dict[str, pa.Array]:
        length = self.config.session_length
        since_start, gap = day.session_times(click)
        return {
            "session_articles": day.session_so_far(day.clicks.article, click, length=length),
            "session_categories": day.session_so_far(day.category, click, length=length),
            "session_last_article": day.session_so_far(day.clicks.article, click, length=1),
            "session_last_category": day.session_so_far(day.category, click, length=1),
            "session_clicks": _float(day.clicks.place[click]),
            "session_seconds": _float(since_start / 1000),
            "session_last_gap_seconds": _float(gap / 1000),
        }

    def _item_and_labels(self, day: Day, rows: Candidates, part: slice) -> dict[str, pa.Array]:
        click, article, clicked = rows.click[part], rows.article[part], rows.clicked[part]
        category, words, age_hours = self._articles.at(article, day.clicks.time_ms[click])
        engaged = clicked & (day.size[click] - 1 - day.clicks.place[click] >= _FOLLOWING)
        return {
            "item_article": singles(article),
            "item_category": singles(category),
            "item_words": _float(words),
            "item_age_hours": _float(age_hours),
            "item_recent_clicks": _float(rows.recent_clicks[part]),
            "click": pa.array(clicked.astype(np.int8)),
            "engaged": pa.array(engaged.astype(np.int8)),
        }


def _event(day: Day, click: Ints) -> dict[str, pa.Array]:
    user = day.clicks.user[click]
    return {
        USER_ID: pa.array(user),
        EVENT_TIME: pa.array(day.clicks.time_ms[click] * 1000).cast(TIME),
        "user": singles(user),
        **{f"context_{name}": singles(ids[click]) for name, ids in zip(CONTEXT, day.context, strict=True)},
    }


def _float(values: npt.NDArray[np.generic]) -> pa.Array:
    return pa.array(values.astype(np.float32))
