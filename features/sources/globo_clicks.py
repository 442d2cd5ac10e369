"""One day's clicks and the articles' metadata, read and validated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from features.source import Landed
from features.sources.integer_lines import read_integers
from features.sources.ragged import Ints
from features.validation import repeated

CLICK_COLUMNS = (
    "user_id",
    "session_id",
    "session_start",
    "session_size",
    "click_article_id",
    "click_timestamp",
    "click_environment",
    "click_deviceGroup",
    "click_os",
    "click_country",
    "click_region",
    "click_referrer_type",
)
ARTICLE_COLUMNS = ("article_id", "category_id", "created_at_ts", "publisher_id", "words_count")

UNKNOWN_CATEGORY = 0
UNKNOWN_WORDS = 190
UNKNOWN_AGE_HOURS = 12
_HOUR_MS = 3_600_000


def read_clicks(path: Path, *, bounds: tuple[datetime, datetime]) -> Landed:
    """The day's clicks in order of time. Beyond what `read_integers` says a line is at fault with:

    wrong_day: its session did not start within `bounds`.
    before_session_start: the click came before its session.
    after_day_end: the click came after the day (of a session that crossed its end): the state as of the end
        of the day must not know it.
    duplicate: the same user clicked the same article of the same session at the same time on a line before.
    """
    lines = read_integers(path, CLICK_COLUMNS)
    start, end = (int(bound.timestamp()) * 1000 for bound in bounds)
    session, click = pl.col("session_start"), pl.col("click_timestamp")
    broken = lines.values.select(
        wrong_day=(session < start) | (session >= end),
        before_session_start=click < session,
        after_day_end=click >= end,
    ).fill_null(False)
    for reason in broken.columns:
        lines.faults.mark(broken[reason].to_numpy(), reason)
    same = lines.values.select(
        pl.struct("user_id", "session_id", "click_article_id", "click_timestamp").rank("dense").cast(pl.Int64)
    )
    keys = same.to_series().fill_null(-1).to_numpy()
    lines.faults.mark(repeated(keys, among=~lines.faults.bad), "duplicate")
    accepted = lines.accepted().sort("click_timestamp", "user_id", "session_id", "click_article_id")
    rejected = lines.rejected()
    assert accepted.height + rejected.num_rows == len(lines.raw), f"{path}: lines were lost"
    return Landed(accepted=accepted.to_arrow(), rejected=rejected)


@dataclass(frozen=True, kw_only=True)
class Articles:
    """What the portal knows of its articles, by ascending `article` id; category ids are at least 1."""

    article: Ints
    category: Ints
    created_ms: Ints
    words: Ints

    def at(self, articles: Ints, times_ms: Ints) -> tuple[Ints, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Category, words and age in whole hours of each article as known at the time."""
        place = np.searchsorted(self.article, articles).clip(0, len(self.article) - 1)
        known = (self.article[place] == articles) & (self.created_ms[place] <= times_ms)
        age = (times_ms - self.created_ms[place]) // _HOUR_MS
        return (
            np.where(known, self.category[place], UNKNOWN_CATEGORY),
            np.where(known, self.words[place], UNKNOWN_WORDS).astype(np.float32),
            np.where(known, age, UNKNOWN_AGE_HOURS).astype(np.float32),
        )


def read_articles(paths: list[Path]) -> Articles:
    """The articles of all parts. ValueError where a part has a line at fault, or two parts disagree."""
    parts = [read_integers(path, ARTICLE_COLUMNS) for path in paths]
    for part in parts:
        if part.faults.bad.any():
            first = part.rejected().slice(0, 1).to_pylist()[0]
            raise ValueError(f"{part.file} line {first['line']}: {first['reason']}: {first['raw']!r}; land it again")
    articles = pl.concat([part.values for part in parts]).unique().sort("article_id")
    twice = articles.filter(pl.col("article_id").is_duplicated())["article_id"].unique().to_list()
    if twice:
        raise ValueError(f"{[str(path) for path in paths]} disagree on articles {twice[:5]}; land them again")
    columns = articles.select(ARTICLE_COLUMNS).to_dict()
    return Articles(
        article=columns["article_id"].to_numpy(),
        category=columns["category_id"].to_numpy(),
        created_ms=columns["created_at_ts"].to_numpy(),
        words=columns["words_count"].to_numpy(),
    )
