"""A worker of the compute center: reads requests, computes micro-batches, writes vectors, each in a thread of its own.

What a worker takes it gets done before it ends, and what it does not get done, another takes over. While a batch is
computed, the next one is taken: the longer computing takes, the larger are the batches, up to `most_users`. There are
as many workers as cores; the group of the stream deals the entries out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from features.ahead import ahead
from serving.calls import Call, Script
from serving.compute.batches import Batch, Computed, Merges, compute, merges_of
from serving.compute.champions import Champions
from serving.compute.queue import Key, Queued, Requests, store_ms
from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE
from serving.features import FeatureCodec
from serving.patience import Patience
from serving.scripts import MERGE_MANY
from snapshots.embedder import USERS_PER_FORWARD, one_thread

log = logging.getLogger(__name__)
_MERGE = Script(MERGE_MANY)

READ_MS = 200
"""How long a read waits for a first request: then it is seen whether the worker should end."""
GATHER_SHARE = 0.4
"""Of the latency target, for which more requests are waited for; the rest is for computing and writing."""
FEWEST_USERS = 64
"""Of a batch, however slow the tower: a batch costs some milliseconds, however few its users."""
ALONE_FROM = 3
"""Deliveries: what others failed at twice is computed in a batch of its own."""
WATCH_SECONDS = 2.0
_WAITING = 1
"""Batches between two threads."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of one worker."""

    latency_ms: float = 50.0
    """Aim, from a request to its vectors in the store. Requests in real time are never waited with."""
    most_users: int = USERS_PER_FORWARD
    """Of a micro-batch."""
    claim_seconds: float = 15.0
    """Entries that were given out so long ago are taken over: longer than a batch ever takes."""
    most_deliveries: int = 5
    """What was given out more often is set aside."""
    drain_seconds: float = 8.0
    """How long a worker that should end tries to write what it has while the store does not answer."""

    def __post_init__(self) -> None:
        for name in ("claim_seconds", "most_users", "most_deliveries", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"compute: {name} is {getattr(self, name)}; it is positive")
        if self.latency_ms < 0:
            raise ValueError(f"compute: latency_ms is {self.latency_ms}; it is 0 (wait for nobody) or more")


class Worker:
    """codecs: by source. `run` returns when `stop` was called and what was taken is done."""

    def __init__(
        self,
        requests: Requests,
        champions: Champions,
        codecs: Mapping[str, FeatureCodec],
        *,
        options: Options,
        statistics: Statistics,
    ) -> None:
        self.statistics, self._options = statistics, options
        self._requests, self._champions, self._codecs = requests, champions, codecs
        self._patience = Patience(statistics, drain_seconds=options.drain_seconds)
        self._stopping = self._patience.stopping
        self._mine: set[Key] = set()
        self._user_seconds: dict[str, float] = {}
        """By source: what computing one took lately."""
        self._claim_at = 0.0
        self._ahead_ms = 0.0
        """The store's clock before this machine's."""

    def stop(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self._patience.stop()

    def run(self) -> None:
        """Work. Errors of the store are waited out; when stopping, for `drain_seconds`, and then raised."""
        watch = threading.Thread(target=self._watch, name="compute-watch", daemon=True)
        watch.start()
        try:
            with (
                one_thread(),
                closing(ahead(self._batches(), waiting=_WAITING, name="compute-read")) as batches,
                closing(ahead(self._computed(batches), waiting=_WAITING, name="compute")) as computed,
            ):
                for one in computed:
                    self._write(one)
        finally:
            self._stopping.set()
            watch.join()
        self._requests.leave()
        log.info("drained done=%d", self.statistics.total("done"))

    def _batches(self) -> Iterator[Batch]:
        while not self._stopping.is_set():
            sources = self._champions.sources
            if not sources:
                self._stopping.wait(READ_MS / 1000)
                continue
            yield from self._taken(self._read(sources))

    def _read(self, sources: frozenset[str]) -> list[Queued]:
        """As many as a batch holds: what others left, what is there, and what comes while it may still be waited."""
        most, found = self._most(sources), list[Queued]()
        try:
            if time.monotonic() >= self._claim_at:
                found += self._claim(sources)
            found += self._new(sources, most - len(found), block_ms=None if found else READ_MS)
            if 0 < len(found) < most and not self._urgent(found):
                self._stopping.wait(GATHER_SHARE * self._options.latency_ms / 1000)
                found += self._new(sources, most - len(found), block_ms=None)
        except UNAVAILABLE as error:
            self._patience.trouble(error)
        return found

    def _most(self, sources: frozenset[str]) -> int:
        """Users of a batch that a slow tower, too, computes within the latency target."""
        most, target = self._options.most_users, self._options.latency_ms / 1000
        slowest = max((self._user_seconds.get(source, 0.0) for source in sources), default=0.0)
        if not target or slowest * most <= target:
            return most
        return min(most, max(FEWEST_USERS, int(target / slowest)))

    def _new(self, sources: frozenset[str], count: int, *, block_ms: int | None) -> list[Queued]:
        found = self._requests.read(sources, count=max(count, 1), block_ms=block_ms)
        self._mine.update(one.key for one in found)
        self.statistics.count("received", len(found))
        return found

    def _claim(self, sources: frozenset[str]) -> list[Queued]:
        found, aside = self._requests.claim(
            sources, idle_ms=int(1000 * self._options.claim_seconds), most=self._options.most_deliveries,
            count=self._options.most_users, mine=self._mine,
        )  # fmt: skip
        if len(found) < self._options.most_users:  # else there is more
            self._claim_at = time.monotonic() + self._options.claim_seconds / 3
        if found or aside:
            log.warning("taken over entries=%d set aside=%d", len(found), aside)
        self._mine.update(one.key for one in found)
        self.statistics.count("claimed", len(found))
        self.statistics.count("set_aside", aside)
        return found

    def _urgent(self, entries: Sequence[Queued]) -> bool:
        """Whether somebody waits for one of these."""
        return any(one.reply is not None for one in entries) or any(
            champion.recipe.serving.mode == "realtime"
            for source in {one.stream.source for one in entries}
            for champion in self._champions.of(source)
        )

    def _taken(self, entries: Sequence[Queued]) -> Iterator[Batch]:
        """As batches, with their features."""
        together: dict[str, list[Queued]] = {}
        groups: list[list[Queued]] = []
        for one in entries:
            if one.deliveries >= ALONE_FROM:
                groups.append([one])
            else:
                together.setdefault(one.stream.source, []).append(one)
        for group in [*together.values(), *groups]:
            most = self._most(frozenset({group[0].stream.source}))
            for begin in range(0, len(group), most):
                part = group[begin : begin + most]
                features = self._patience.until_done(lambda part=part: self._requests.take(part))  # type: ignore[misc]
                yield Batch(source=part[0].stream.source, entries=part, features=features)

    def _computed(self, batches: Generator[Batch]) -> Iterator[Computed]:
        with closing(batches):
            for batch in batches:
                began, worked = time.perf_counter(), time.thread_time()
                made = self._patience.until_done(lambda batch=batch: self._compute(batch), OSError)  # type: ignore[misc]
                self.statistics.count("busy_seconds", time.perf_counter() - began)
                if made.users:  # by CPU time: a core that others use should not make batches small, which cost more
                    per_user = (time.thread_time() - worked) / len(made.users)
                    self._user_seconds[batch.source] = (per_user + self._user_seconds.get(batch.source, per_user)) / 2
                yield made

    def _compute(self, batch: Batch) -> Computed:
        champions, missing = self._champions.of(batch.source), self._champions.missing(batch.source)
        try:
            computed = compute(batch, champions, self._codecs[batch.source], self.statistics)
            for model in missing:
                self.statistics.count("refused", len(computed.users), model=model, reason="no_version")
            return replace(computed, missing=missing)
        except OSError:
            raise
        except Exception:  # it is left for another try, and then set aside: the worker goes on
            log.exception("batch failed source=%s entries=%d", batch.source, len(batch.entries))
            return Computed(batch=batch, failed=True)

    def _write(self, computed: Computed) -> None:
        batch, merges = computed.batch, merges_of(computed, self._requests.keys)
        found = self._patience.until_done(lambda: self._merged([one.call for one in merges]))
        written: Counter[int] = Counter()
        failed: set[int] = set()
        for one, places in zip(merges, found, strict=True):
            if isinstance(places, Exception):
                log.error("not written users=%s: %s", one.users[:5], places)
                failed.update(one.users)
            else:
                written.update(self._counted(one, places))
        entries = [] if computed.failed else [one for one in batch.entries if one.user not in failed]
        if entries:
            models = len(computed.vectors) + len(computed.missing)
            without = {one.user for one in entries if written[one.user] < models or not models}
            self._patience.until_done(lambda: self._requests.done(entries, without=without))
            self.statistics.count("done", len(entries))
            now_ms = 1000 * time.time() + self._ahead_ms
            self.statistics.took([max(now_ms - one.arrived_ms, 0) / 1000 for one in entries])
        self.statistics.count("batches")
        if len(entries) < len(batch.entries):
            self.statistics.count("failed")
        self._mine.difference_update(one.key for one in batch.entries)

    def _merged(self, calls: Sequence[Call]) -> list[Any]:
        """Of each call its places, or the error that the store answered. UNAVAILABLE: none may have been done."""
        found = _MERGE.answers(self._requests.redis, calls)
        for one in found:
            if isinstance(one, UNAVAILABLE):
                raise one
        return found

    def _counted(self, merges: Merges, places: Sequence[int]) -> list[int]:
        """What became of each record; whose are in the store now, they or newer ones."""
        became = Counter(
            (model, "written" if place > 0 else "late" if place == 0 else "refused")
            for model, place in zip(merges.models, places, strict=True)
        )
        for (model, what), number in became.items():
            labels = {"reason": "future"} if what == "refused" else {}
            self.statistics.count(what, number, model=model, **labels)
        if min(places) >= 0:
            return merges.users
        return [user for user, place in zip(merges.users, places, strict=True) if place >= 0]

    def _watch(self) -> None:
        """How much waits, and what time it is there."""
        while True:
            try:
                self._ahead_ms = store_ms(self._requests.redis) - 1000 * time.time()
                for source, one in self._requests.waiting().items():
                    self.statistics.set("queue_length", one.length, source=source)
                    self.statistics.set("queue_oldest_seconds", one.oldest_seconds, source=source)
            except UNAVAILABLE as error:
                log.debug("the queue was not looked at: %s", error)
            if self._stopping.wait(WATCH_SECONDS):
                return
