"""What a reader does behind its answers, in a thread: hands misses on, logs, learns neighbours and the store's clock.

Everything is bounded, and lost with the process; what does not fit is dropped and counted.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
import zlib
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.client.breaker import Breaker
from serving.client.clock import StoreClock
from serving.client.options import BACKGROUND_SECONDS, RETRY_SECONDS
from serving.client.outbox import drained
from serving.client.pool import Pool
from serving.client.refresh import PROBE
from serving.client.route import Route, Servers
from serving.client.wire import BrokenError, LateError, Target, packed, require_no_error
from serving.connection import UNAVAILABLE, connect
from serving.keys import Keys
from serving.solaris import log as served_log
from serving.solaris.answer import PairAnswer
from serving.solaris.interfaces import Likely
from serving.solaris.model import PairModel
from serving.solaris.neighbours import Neighbours
from serving.solaris.store import MOST_PRIORITY, PairStore
from serving.solaris.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.solaris.reader import Options, Priorities

logger = logging.getLogger(__name__)

TOGETHER = 256
"""Reads' misses, or reads, per round trip."""
_LOGGED_BEHIND = 16 * 2**20
"""Bytes of reads that wait to be logged."""
_PROBE_SECONDS = 0.05
"""In which a server that failed has to answer."""
_TIME = packed([("TIME",)])


class Background:
    """Of one reader."""

    def __init__(self, url: str, model: PairModel, options: Options, tally: Tally, priorities: Priorities) -> None:
        self._url, self._model, self._options = url, model, options
        self._tally, self._statistics = tally, tally.statistics
        self._keys, self._priorities = Keys(options.partitions), priorities
        self.clock = StoreClock()
        self.neighbours = Neighbours(capacity=options.neighbours, stale_seconds=options.neighbours_seconds)
        self.is_lost = True
        """Whether to find out anew which server has what."""
        self._servers: Servers[Pool] | None = None
        self._store: PairStore | None = None
        self._wanted: deque[tuple[int, NDArray[np.int64]] | Likely] = deque()
        self._num_wanted, self._counting = 0, threading.Lock()
        self._entries: deque[served_log.Entry] = deque()
        self._entry_bytes = 0
        self._name, self._numbers = secrets.randbits(63), itertools.count()
        self._is_sending = False
        self._closing, self._work = threading.Event(), threading.Event()
        self._refresh()
        self._thread = threading.Thread(target=self._run, name="pairs-background", daemon=True)
        self._thread.start()

    def pool(self, partition: int) -> Pool | None:
        """Connections to who has the partition; None before the store was reached."""
        return None if self._servers is None else self._servers.reads[partition]

    def served(self, answer: PairAnswer) -> None:
        """Count it, and log it where its user's reads are logged."""
        self._tally.answered(answer)
        share = self._options.log_share
        if not share or zlib.crc32(b"log" + answer.user.to_bytes(8, "little", signed=True)) >= share * 2**32:
            return
        value = served_log.packed(answer, reader=self._name, number=next(self._numbers))
        with self._counting:
            fits = self._entry_bytes + len(value) <= _LOGGED_BEHIND
            if fits:
                self._entry_bytes += len(value)
                self._entries.append(served_log.Entry(answer.user, value))
        if fits:
            self._wake()
        else:
            self._statistics.count("logged", outcome="dropped")

    def want(self, user: int, items: NDArray[np.int64]) -> None:
        """Hand the pairs on, each once."""
        unique = np.unique(items)
        self._offer((user, unique), len(unique))

    def want_likely(self, pairs: Sequence[Likely]) -> None:
        """As `want`, of pairs that have a priority."""
        for pair in pairs:
            self._offer(pair, 1)

    def _offer(self, one: tuple[int, NDArray[np.int64]] | Likely, number: int) -> None:
        """As many of them as fit."""
        with self._counting:
            fits = min(number, max(self._options.buffer - self._num_wanted, 0))
            if fits:
                self._num_wanted += fits
                self._wanted.append(one if isinstance(one, Likely) else (one[0], one[1][:fits]))
        if fits:
            self._wake()
        if fits < number:
            self._statistics.count("enqueued", number - fits, outcome="dropped")

    def _wake(self) -> None:
        if not self._work.is_set():
            self._work.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be sent or fetched."""
        return not (self._wanted or self._entries or self.neighbours.is_behind or self._is_sending)

    def flush(self, *, timeout_seconds: float) -> bool:
        """Wait until everything is sent. False: it was not."""
        return drained(lambda: self.is_idle, self._work.set, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """Send what waits, within a second, and stop."""
        if not self._closing.is_set():
            if not self.flush(timeout_seconds=1.0):
                logger.warning("%d pairs were not handed on", self._num_wanted)
            self._closing.set()
            self._work.set()
            self._thread.join()
            for pool in self._servers.all if self._servers is not None else ():
                pool.close()
            if self._store is not None:
                self._store.redis.close()

    def _run(self) -> None:
        refreshed = time.monotonic()
        while not self._closing.is_set():
            self._work.wait(self._options.refresh_seconds)
            if self._closing.wait(self._options.send_seconds):
                return
            self._work.clear()
            try:
                if not self.is_idle:
                    self._send()
                if time.monotonic() >= refreshed + self._options.refresh_seconds or self.is_lost:
                    self._refresh()
                    refreshed = time.monotonic()
            except (*UNAVAILABLE, BrokenError) as error:
                self._statistics.count("store_errors")
                logger.debug("the store does not answer: %s", error)
                self._closing.wait(RETRY_SECONDS)
            except Exception:
                self._statistics.count("store_errors")
                logger.exception("what was to be handed on is dropped")
                self._closing.wait(RETRY_SECONDS)
            if not self.is_idle:
                self._work.set()

    def _send(self) -> None:
        """A round trip of each kind. Pairs come before the log: they are what is to be computed."""
        self._is_sending = True
        try:
            store = self._connected()
            self._send_wanted(store)
            self._send_log(store)
            if self.neighbours.is_behind:
                self.neighbours.fetch(store, now_ms=self.clock.now_ms())
        finally:
            self._is_sending = False

    def _send_wanted(self, store: PairStore) -> None:
        if not (wanted := self._likely()):
            return
        try:
            became = store.enqueue(wanted)
        except UNAVAILABLE:
            self.want_likely(wanted)
            raise
        except (redis.RedisError, ValueError):  # it will not pass; what comes after is not to wait for it
            logger.exception("%d pairs are not handed on", len(wanted))
            self._statistics.count("store_errors")
            self._statistics.count("enqueued", len(wanted), outcome="dropped")
            return
        for outcome, number in became.items():
            self._statistics.count("enqueued", number, outcome=outcome)

    def _send_log(self, store: PairStore) -> None:
        """What a server cannot take for now waits; what it refuses is dropped."""
        with self._counting:
            entries = [self._entries.popleft() for _ in range(min(len(self._entries), TOGETHER))]
        if not entries:
            return
        found: list[Exception | None]
        try:
            found = served_log.append(store, entries, longest=self._options.longest_log)
        except (redis.RedisError, *UNAVAILABLE) as error:
            found = [error] * len(entries)
        waiting = [one for one, error in zip(entries, found, strict=True) if isinstance(error, UNAVAILABLE)]
        errors = [error for error in found if error is not None]
        with self._counting:
            self._entries.extend(waiting)
            self._entry_bytes -= sum(len(one.value) for one in entries) - sum(len(one.value) for one in waiting)
        self._statistics.count("logged", len(entries) - len(errors), outcome="written")
        if refused := len(errors) - len(waiting):
            self._statistics.count("store_errors")
            self._statistics.count("logged", refused, outcome="dropped")
            logger.error("%d reads are not logged: %s", refused, sorted(set(map(str, errors)))[:3])
        if waiting:
            raise next(error for error in errors if isinstance(error, UNAVAILABLE))

    def _likely(self) -> list[Likely]:
        """Some of what waits, with priorities."""
        with self._counting:
            taken = [self._wanted.popleft() for _ in range(min(len(self._wanted), TOGETHER))]
            self._num_wanted -= sum(1 if isinstance(one, Likely) else len(one[1]) for one in taken)
        return [pair for one in taken for pair in ([one] if isinstance(one, Likely) else self._with_priorities(*one))]

    def _with_priorities(self, user: int, items: NDArray[np.int64]) -> list[Likely]:
        """A predictor that fails costs the pairs that it was asked for."""
        try:
            priorities = np.asarray(self._priorities(user, items), np.float64)
            if priorities.shape != items.shape or not (np.abs(priorities) <= MOST_PRIORITY).all():
                raise ValueError(f"priorities {priorities} of {len(items)} pairs; one for each, which float32 holds")
        except Exception:
            logger.exception("no priorities of user %d; its pairs are not handed on", user)
            self._statistics.count("enqueued", len(items), outcome="failed")
            return []
        return [Likely(user, *pair) for pair in zip(items.tolist(), priorities.tolist(), strict=True)]

    def _connected(self) -> PairStore:
        if self._store is None:
            client = connect(self._url, timeout_seconds=BACKGROUND_SECONDS, retry=Retry(NoBackoff(), 1))
            self._store = PairStore(client, self._model, self._keys)
        return self._store

    def _refresh(self) -> None:
        """Which server has what, what time the store has, and whether servers that failed answer again."""
        try:
            if self._servers is None or self.is_lost:
                self._connect(Route.find(self._url, self._keys))
                self.is_lost = False
            assert self._servers is not None
            asked = time.monotonic()
            (answer,) = self._servers.served.call(_TIME, 1, deadline=asked + BACKGROUND_SECONDS)
            require_no_error(answer)
            store_ms = 1000 * int(answer[0]) + int(answer[1]) / 1000
            self.clock.measured(asked=asked, answered=time.monotonic(), store_ms=store_ms)
        except (LateError, BrokenError) as error:
            self.is_lost = True
            self._statistics.count("store_errors")
            logger.debug("the store does not say what time it is: %s", error)
        self._probe()
        self._tally.counted()
        pools = self._servers.all if self._servers is not None else ()
        self._statistics.set("breaker_open", any(pool.breaker.is_open for pool in pools))
        self._statistics.set("buffered", self._num_wanted)
        self._statistics.set("known_neighbours", len(self.neighbours))

    def _connect(self, route: Route) -> None:
        earlier, self._servers = self._servers, Servers.of(route, self._pool, self._servers)
        for pool in earlier.left_by(self._servers) if earlier is not None else ():
            pool.close()

    def _pool(self, target: Target) -> Pool:
        breaker = Breaker(failures=self._options.failures, pause_seconds=self._options.pause_seconds)
        return Pool(target, breaker)

    def _probe(self) -> None:
        for pool in self._servers.all if self._servers is not None else ():
            if pool.breaker.is_open:
                try:
                    require_no_error(pool.call(PROBE, 1, deadline=time.monotonic() + _PROBE_SECONDS)[0])
                except (LateError, BrokenError) as error:
                    logger.debug("%r does not answer yet: %s", pool.target, error)
                else:
                    pool.breaker.succeeded()
