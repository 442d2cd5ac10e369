"""A worker of precomputation: takes pairs, has the foundation model represent them, writes; a thread for each.

What it takes it gets done before it ends; what a worker that died had, others take over. Nothing is taken while two
batches wait to be computed or written: the rest stays on the queue, where what is likelier comes first.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import redis

from features.ahead import ahead
from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE
from serving.patience import Patience
from serving.solaris.precompute import Batch, Computed, Precompute
from serving.solaris.queue import ALONE_FROM, Leased, PairQueue
from serving.solaris.store import PairStore

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0
_WAITING = 1
"""Batches between two threads."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of one worker."""

    most_pairs: int = 256
    """Of a batch."""
    lease_seconds: float = 15.0
    """Pairs of a worker that has not been heard of for so long are taken over."""
    batch_seconds: float = 300.0
    """A batch that is not done after so long hangs: its pairs are taken over."""
    most_deliveries: int = 5
    """What was given out more often is set aside."""
    poll_seconds: float = 0.05
    """Between two looks at an empty queue, or one without budget."""
    drain_seconds: float = 8.0
    """How long a worker that should end tries to write what it has while the store does not answer."""

    def __post_init__(self) -> None:
        for name in (
            "most_pairs",
            "lease_seconds",
            "batch_seconds",
            "most_deliveries",
            "poll_seconds",
            "drain_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"precomputation: {name} is {getattr(self, name)}; it is positive")


class Worker:
    """`run` returns when `stop` was called and what was taken is done."""

    def __init__(
        self, queue: PairQueue, store: PairStore, precompute: Precompute, *, options: Options, statistics: Statistics
    ) -> None:
        self.statistics, self._options = statistics, options
        self._queue, self._store, self._precompute = queue, store, precompute
        self._patience = Patience(statistics, drain_seconds=options.drain_seconds)
        self._ended = threading.Event()
        self._over = threading.Event()
        """Nothing more is computed or written: nobody need wait for it."""
        self._mine: dict[int, Batch] = {}
        """What it has taken and not written: its leases are renewed."""

    def stop(self) -> None:
        """Take nothing more. Safe in a signal handler."""
        self._patience.stop()

    def run(self) -> None:
        """Work. Errors of the store are waited out; when stopping, for `drain_seconds`, and then raised."""
        watch = threading.Thread(target=self._watch, name="solaris-watch", daemon=True)
        watch.start()
        try:
            with (
                closing(ahead(self._batches(), waiting=_WAITING, name="solaris-take")) as batches,
                closing(ahead(self._computed(batches), waiting=_WAITING, name="solaris-compute")) as computed,
            ):
                try:
                    for one in computed:
                        self._patience.until_done(lambda one=one: self._write(one))  # type: ignore[misc]
                finally:
                    self._over.set()
        finally:
            self._patience.stopping.set()
            self._ended.set()
            watch.join()
        log.info("drained done=%d", self.statistics.total("done"))

    def _batches(self) -> Iterator[Batch]:
        while not self._patience.stopping.is_set():
            try:
                taken = self._queue.take(
                    most=self._options.most_pairs, lease_seconds=self._options.lease_seconds,
                    most_deliveries=self._options.most_deliveries,
                )  # fmt: skip
            except UNAVAILABLE as error:
                self._patience.trouble(error)
                continue
            self.statistics.count("taken", len(taken.pairs))
            self.statistics.count("taken_over", taken.again)
            self.statistics.count("set_aside", taken.aside)
            if taken.pairs:
                yield from self._in_turn(self._with_features(taken.pairs))
            else:
                self._patience.stopping.wait(self._options.poll_seconds)

    def _with_features(self, pairs: Sequence[Leased]) -> list[Batch]:
        """As batches, all of which are its own from now on, however long they wait for each other."""
        users = sorted({one.user for one in pairs})
        features = self._patience.until_done(lambda: self._queue.features(users))
        batches = [Batch(pairs=group, features=features) for group in _groups(pairs)]
        self._mine |= {id(batch): batch for batch in batches}
        return batches

    def _in_turn(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """What others may have died of when nothing else is at hand that would come back with it."""
        for place, batch in enumerate(batches):
            left = len(batches) - place
            if is_alone := batch.pairs[0].deliveries >= ALONE_FROM:
                self._wait_for_all_but(left)
            yield batch
            if is_alone:
                self._wait_for_all_but(left - 1)

    def _wait_for_all_but(self, number: int) -> None:
        while len(self._mine) > number and not self._over.wait(self._options.poll_seconds):
            pass

    def _computed(self, batches: Generator[Batch]) -> Iterator[Computed]:
        with closing(batches):
            try:
                for batch in batches:
                    yield self._patience.until_done(lambda batch=batch: self._precompute(batch), OSError)  # type: ignore[misc]
            finally:
                self._over.set()

    def _write(self, computed: Computed) -> None:
        """Merging is idempotent: what was merged before an error is merged again."""
        made, kept = computed.represented, 0
        if made is not None and len(made.entries):
            written = self._store.write(made)
            kept = written.kept
            self.statistics.count("refused", written.future, reason="future")
            self.statistics.count("dropped", len(made.entries) - written.kept - written.future)
        self._queue.done(computed.done)
        self._mine.pop(id(computed.batch))
        self.statistics.count("written", kept)
        self.statistics.count("done", len(computed.done))
        self.statistics.count("batches")
        self.statistics.took([time.monotonic() - computed.batch.taken])

    def _watch(self) -> None:
        """Until it has ended: how much waits, and that it is alive."""
        self.statistics.set("up", 1)
        every_seconds = min(WATCH_SECONDS, self._options.lease_seconds / 3)
        while not self._ended.wait(every_seconds):
            since = time.monotonic() - self._options.batch_seconds
            mine = [one for batch in list(self._mine.values()) if batch.taken > since for one in batch.pairs]
            try:
                self._queue.renew(mine, lease_seconds=self._options.lease_seconds)
                for name, value in zip(("queue_length", "leased", "aside"), self._queue.length(), strict=True):
                    self.statistics.set(name, value)
            except redis.RedisError as error:  # of whatever kind: without this thread, others take its pairs over
                log.warning("the queue was not looked at: %s", error)


def _groups(pairs: Sequence[Leased]) -> Iterator[list[Leased]]:
    """Those of few deliveries together. The others, of different partitions, in any order: whoever came behind the one
    that kills every time would be set aside with it."""
    if together := [one for one in pairs if one.deliveries < ALONE_FROM]:
        yield together
    alone = [one for one in pairs if one.deliveries >= ALONE_FROM]
    for one in random.sample(alone, len(alone)):
        yield [one]
