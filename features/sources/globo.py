"""`GloboClicks`: the click log of Globo.com. `features.sources.globo_log` makes its examples."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from features.schema import DenseFeature, Schema, SparseFeature, Table

if TYPE_CHECKING:
    from features.source import LogReader

CONTEXT = ("environment", "device_group", "os", "country", "region", "referrer", "hour")
"""The request's context, as the columns `context_…`."""


@dataclass(frozen=True, kw_only=True)
class GloboClicks:
    """Clicks of the portal's UTC-3 day against articles that others clicked shortly before."""

    name: str = "globo"
    seed: int = 0
    negatives: int = 3
    """Sampled articles per click, at most."""
    pool_clicks: int = 5_000
    """They are drawn from this many newest clicks before the event, and popularity is counted over them."""
    pool_min: int = 100
    """A click before which fewer clicks are known makes no examples."""
    history_length: int = 20
    """Newest clicks of the days before that a user's lists hold."""
    session_length: int = 20
    """Newest clicks of the session so far."""
    state_days: int = 30
    """A user unseen for longer has no history."""
    user_rows: int = 200_000
    article_rows: int = 40_000

    def __post_init__(self) -> None:
        for name in (
            "negatives",
            "pool_clicks",
            "pool_min",
            "history_length",
            "session_length",
            "state_days",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"source {self.name}: {name} is {getattr(self, name)}; it is at least 1")
        if self.pool_min > self.pool_clicks:
            raise ValueError(f"source {self.name}: pool_min {self.pool_min} is above pool_clicks {self.pool_clicks}")

    @property
    def day_starts_at(self) -> timedelta:
        """The portal's day is UTC-3."""
        return timedelta(hours=3)

    @property
    def schema(self) -> Schema:
        """`history_…` is the user as of the day before, `session_…` the session so far."""
        return Schema(
            tables=(
                Table(name="user", num_rows=self.user_rows),
                Table(name="article", num_rows=self.article_rows),
                Table(name="category", num_rows=2_000),
                Table(name="context", num_rows=10_000),
            ),
            sparse=(
                SparseFeature(name="user", table="user"),
                SparseFeature(name="history_articles", table="article"),
                SparseFeature(name="history_categories", table="category"),
                SparseFeature(name="session_articles", table="article"),
                SparseFeature(name="session_categories", table="category"),
                SparseFeature(name="session_last_article", table="article"),
                SparseFeature(name="session_last_category", table="category"),
                *(SparseFeature(name=f"context_{name}", table="context") for name in CONTEXT),
                SparseFeature(name="item_article", table="article", side="item"),
                SparseFeature(name="item_category", table="category", side="item"),
            ),
            dense=(
                DenseFeature(name="history_clicks", transform="log1p"),
                DenseFeature(name="history_sessions", transform="log1p"),
                DenseFeature(name="history_days", transform="log1p"),
                DenseFeature(name="days_since_seen", transform="log1p"),
                DenseFeature(name="session_clicks", transform="log1p"),
                DenseFeature(name="session_seconds", transform="log1p"),
                DenseFeature(name="session_last_gap_seconds", transform="log1p"),
                DenseFeature(name="item_words", side="item", transform="log1p"),
                DenseFeature(name="item_age_hours", side="item", transform="log1p"),
                DenseFeature(name="item_recent_clicks", side="item", transform="log1p"),
            ),
            tasks=("click", "engaged"),
        )

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        """A reader of the logs under `data_dir`, or `data_dir/globo`."""
        from features.sources.globo_log import GloboLog

        return GloboLog(self, data_dir=data_dir)
