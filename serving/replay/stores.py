"""The stores of a replay, one per kind of feed, carried from day to day."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np

from features.lake import Lake, Partition
from features.schema import USER_ID
from serving.record import KEPT
from serving.replay.entries import Entries, Vectors
from serving.replay.modes import Feed, ReplayConfig
from serving.replay.requests import Requests, first_rows
from serving.replay.served import Served, serve
from serving.replay.snapshots import Promoted, PromotedDays, embed_users, load
from snapshots.embedder import Embedder, one_thread
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
        feeds = {mode.feed for mode in config.modes}
        self.entries: dict[Feed, Entries] = {feed: Entries.empty(**self._shape) for feed in feeds}
        self._frozen = promoted.get(frozen)
        if frozen >= first:
            raise ValueError(f"the frozen snapshot is of {frozen}; it must be older than the first day, {first}")
        self._frozen_embedder = self._frozen.embedder() if "frozen" in feeds else None
        if "once" in feeds:
            self._write("once", self._frozen, self._frozen.number)
        for day in promoted.before(first, days=-(-config.ttl_ms // _DAY_MS)):
            self._end_of_day(day, with_requests=True)

    def begin(self, ds: date) -> None:
        """The day before ends: its users are embedded again where a feed is daily, and what expired goes."""
        for day in self._promoted.before(ds, days=1):
            self._end_of_day(day, with_requests=False)
        config = self._config
        for feed, entries in self.entries.items():
            if feed != "once" and len(entries.user):
                self.entries[feed] = entries.trimmed(
                    at_ms=self._start_ms(ds), delay_ms=config.longest_delay_ms, ttl_ms=config.ttl_ms,
                    count=KEPT,
                )  # fmt: skip

    def serve(self, ds: date, examples: Partition, requests: Requests) -> dict[str, Served]:
        """By mode, what each of the day's requests is served; their own computations are written too."""
        champion = self._promoted.champion(ds)
        by_request = [feed for feed in ("request", "both") if feed in self.entries]
        if by_request:
            vectors = embed_requests(champion.embedder(), self._lake, examples, requests)
            for feed in by_request:
                self.entries[feed] = self.entries[feed].merged(
                    requests.user, requests.time_ms, champion.number, vectors
                )
        return {
            mode.name: serve(mode, self.entries[mode.feed], requests, config=self._config, version=champion.number)
            for mode in self._config.modes
        }

    def _end_of_day(self, day: Promoted, *, with_requests: bool) -> None:
        for feed in self.entries:
            if feed in ("daily", "both") or (feed == "request" and with_requests):
                self._write(feed, day, day.number)
            elif feed == "frozen" and day.ds >= self._frozen.ds:
                self._write(feed, day, self._frozen.number)

    def _write(self, feed: Feed, day: Promoted, version: int) -> None:
        if feed == "frozen":
            assert self._frozen_embedder is not None
            with one_thread():
                users, times, vectors = embed_users(day, self._lake, self._frozen_embedder)
        else:
            users, times, vectors = load(day, self._lake, **self._shape)
        self.entries[feed] = self.entries[feed].merged(users, times, version, vectors)

    def _start_ms(self, ds: date) -> int:
        start = datetime.combine(ds, datetime.min.time(), UTC) + self._recipe.source.day_starts_at
        return int(start.timestamp() * 1_000)


def embed_requests(embedder: Embedder, lake: Lake, examples: Partition, requests: Requests) -> Vectors:
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
