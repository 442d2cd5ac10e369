"""The stores of a replay, one per kind of feed, carried from day to day."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np

from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.record import KEPT
from serving.replay.entries import Entries, Vectors
from serving.replay.modes import DAILY, Feed, ReplayConfig
from serving.replay.requests import Requests, first_rows
from serving.replay.served import LOOKBACK_MS, Served, serve
from serving.replay.snapshots import Embeds, Loaded, PromotedDay, PromotedDays, embed_users
from snapshots.embedder import one_thread
from trainer.recipe import Recipe

_DAY_MS = 86_400_000


class Stores:
    """What every feed has written so far.

    At the start they are as a bulk load of the days before leaves them, those of requests too: the feature store of a
    service that was up has a record of whoever was active.
    """

    def __init__(
        self, recipe: Recipe, lake: Lake, promoted: PromotedDays, *, config: ReplayConfig, first: date, frozen: date
    ) -> None:
        self._recipe, self._lake, self._promoted, self._config = recipe, lake, promoted, config
        tower = recipe.user_tower
        self._shape = {"num_embeddings": tower.num_embeddings, "dim": tower.dim}
        self.entries: dict[Feed, Entries] = {mode.feed: Entries.empty(**self._shape) for mode in config.modes}
        self._frozen = promoted.get(frozen)
        if frozen >= first:
            raise ValueError(f"the frozen snapshot is of {frozen}; it must be older than the first day, {first}")
        self._frozen_embedder = self._frozen.embedder() if any(map(_is_frozen, self.entries)) else None
        if "once" in self.entries:
            self._write("once", self._frozen, self._of_champion(self._frozen))
        for day in promoted.before(first, days=-(-(config.ttl_ms + LOOKBACK_MS) // _DAY_MS)):
            self._end_of_day(day, set(self.entries) - {"once"})

    def begin(self, ds: date) -> None:
        """The day before ends: its users are embedded again where a feed is daily, and what expired goes."""
        for day in self._promoted.before(ds, days=1):
            self._end_of_day(day, set(self.entries) & DAILY)
        start = datetime.combine(ds, datetime.min.time(), UTC) + self._recipe.source.day_starts_at
        config = self._config
        for feed in set(self.entries) - {"once"}:
            if len(self.entries[feed].user):
                self.entries[feed] = self.entries[feed].trimmed(
                    at_ms=int(start.timestamp() * 1_000), delay_ms=config.longest_delay_ms, ttl_ms=config.ttl_ms,
                    count=KEPT,
                )  # fmt: skip

    def serve(self, ds: date, examples: Partition, requests: Requests) -> dict[str, Served]:
        """By mode, what each of the day's requests is served; their own computations are written too."""
        champion = self._promoted.champion(ds)
        self._compute({"request", "both"}, champion, None, examples, requests)
        self._compute({"frozen-request"}, self._frozen, self._frozen_embedder, examples, requests)
        return {
            mode.name: serve(
                mode, self.entries[mode.feed], requests, config=self._config,
                version=self._frozen.number if _is_frozen(mode.feed) else champion.number,
            )
            for mode in self._config.modes
        }  # fmt: skip

    def _compute(
        self, feeds: set[Feed], by: PromotedDay, embedder: Embeds | None, examples: Partition, requests: Requests
    ) -> None:
        """Every request's own vectors, written to those of `feeds` that there are."""
        if feeds := feeds & set(self.entries):
            vectors = embed_requests(embedder or by.embedder(), self._lake, examples, requests)
            for feed in feeds:
                self._write(feed, by, (requests.user, requests.time_ms, vectors))

    def _end_of_day(self, day: PromotedDay, feeds: set[Feed]) -> None:
        """The day's active users, embedded by the day's snapshot or by the frozen one, are written to the feeds."""
        frozen = {feed for feed in feeds if _is_frozen(feed)}
        if frozen and day.ds >= self._frozen.ds:
            loaded = self._of_frozen(day)
            for feed in frozen:
                self._write(feed, self._frozen, loaded)
        if feeds - frozen:
            loaded = self._of_champion(day)
            for feed in feeds - frozen:
                self._write(feed, day, loaded)

    def _of_champion(self, day: PromotedDay) -> Loaded:
        return day.load(self._lake, **self._shape)

    def _of_frozen(self, day: PromotedDay) -> Loaded:
        assert self._frozen_embedder is not None
        with one_thread():
            return embed_users(day, self._lake, self._frozen_embedder)

    def _write(self, feed: Feed, by: PromotedDay, loaded: Loaded) -> None:
        users, times, vectors = loaded
        self.entries[feed] = self.entries[feed].merged(users, times, by.number, vectors)


def _is_frozen(feed: Feed) -> bool:
    return feed in ("frozen", "frozen-request")


def embed_requests(embedder: Embeds, lake: Lake, examples: Partition, requests: Requests) -> Vectors:
    """Every request's user by the features that were logged with it, [R, K, D]."""
    found: Vectors | None = None
    with one_thread():
        for places, rows in first_rows(lake, examples, requests, [USER_ID, *embedder.columns]):
            vectors = embedder.embed(rows)
            if found is None:
                found = np.empty((len(requests), *vectors.shape[1:]), dtype=np.float16)
            found[places] = vectors
    assert found is not None, "a day has at least one example"
    return found
