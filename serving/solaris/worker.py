"""A worker of precomputation: takes pairs, has the foundation model represent them, writes; a thread for each.

What it takes it gets done before it ends; what a worker that died had, others take over. Nothing is taken while two
batches wait to be computed or written: the rest stays on the queue, where what is likelier comes first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from features.ahead import ahead
from serving.compute.statistics import Statistics
from serving.connection import UNAVAILABLE
from serving.patience import Patience
from serving.solaris.precompute import Batch, Computed, Precompute
from serving.solaris.queue import Leased, PairQueue
from serving.solaris.store import PairStore

log = logging.getLogger(__name__)

ALONE_FROM = 3
"""Deliveries: what others died of twice is computed in a batch of its own."""
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
                for one in computed:
                    self._patience.until_done(lambda one=one: self._write(one))  # type: ignore[misc]
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
            for pairs in _groups(taken.pairs):
                users = sorted({one.user for one in pairs})
                features = self._patience.until_done(lambda users=users: self._queue.features(users))  # type: ignore[misc]
                batch = Batch(pairs=pairs, features=features)
                self._mine[id(batch)] = batch
                yield batch
            if not taken.pairs:
                self._patience.stopping.wait(self._options.poll_seconds)

    def _computed(self, batches: Generator[Batch]) -> Iterator[Computed]:
        with closing(batches):
            for batch in batches:
                yield self._patience.until_done(lambda batch=batch: self._precompute(batch), OSError)  # type: ignore[misc]

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
            try:
                for name, value in zip(("queue_length", "leased", "aside"), self._queue.length(), strict=True):
                    self.statistics.set(name, value)
                since = time.monotonic() - self._options.batch_seconds
                mine = [one for batch in list(self._mine.values()) if batch.taken > since for one in batch.pairs]
                self._queue.renew(mine, lease_seconds=self._options.lease_seconds)
            except UNAVAILABLE as error:
                log.debug("the queue was not looked at: %s", error)


def _groups(pairs: list[Leased]) -> Iterator[list[Leased]]:
    """Those of few deliveries together."""
    if together := [one for one in pairs if one.deliveries < ALONE_FROM]:
        yield together
    for one in pairs:
        if one.deliveries >= ALONE_FROM:
            yield [one]
