"""The client of pairs: an answer at once, whatever the foundation model is doing; everything else behind it.

A read is one command to one server, with a deadline over all of it. What it did not find it hands on for computation
after the answer, as it does with what is nearing the end of its time.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, SupportsIndex, TypeGuard

import hiredis
import numpy as np
from numpy.typing import NDArray

from serving.client.wire import BrokenError, LateError, require_no_error
from serving.compute.statistics import Statistics
from serving.keys import Keys
from serving.record import RecordError
from serving.solaris.answer import Outcome, PairAnswer
from serving.solaris.background import Background
from serving.solaris.interfaces import Likely
from serving.solaris.keys import PairKeys
from serving.solaris.levels import fill
from serving.solaris.model import PairModel
from serving.solaris.record import PairRecord, entry_type
from serving.solaris.tally import Tally

log = logging.getLogger(__name__)

Priorities = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""Of a user's misses [M]: how likely each is to be asked for again, as the predictor says it. Called after the answer,
in the reader's own thread."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of a reader."""

    partitions: int = 1
    """As every client of the store has them."""
    buffer: int = 10_000
    """Pairs that wait to be handed on; more are dropped."""
    log_share: float = 0.0
    """Of the users: whose reads are logged (`serving.solaris.log`), the same ones in every process."""
    longest_log: int = 10_000
    """Reads that the log of a partition holds."""
    neighbours: int = 20_000
    """Items whose neighbours' mean is known."""
    neighbours_seconds: float = 60.0
    """A mean that is older is fetched again."""
    send_seconds: float = 0.005
    """So long pairs are gathered before they are handed on together."""
    refresh_seconds: float = 2.0
    """So often the store's clock is asked for, and servers that failed are tried."""
    failures: int = 5
    """Reads in a row that fail before the store is not asked any more."""
    pause_seconds: float = 0.25
    """Between two tries of it then."""

    def __post_init__(self) -> None:
        if not 0 <= self.log_share <= 1:
            raise ValueError(f"a reader's log_share is {self.log_share}; it is from 0 to 1")
        for one in fields(self):
            if one.name != "log_share" and not getattr(self, one.name) > 0:
                raise ValueError(f"a reader's {one.name} is {getattr(self, one.name)}; it is positive")


def _one_for_all(user: int, items: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.ones(len(items))


class PairReader:
    """Of one foundation model. Thread-safe; not to be taken over a fork.

    read() takes `deadline_ms` at most and never fails for the store's sake. priorities: of misses; default: 1 for each.
    Closing hands on what is still to be handed on.
    """

    def __init__(
        self, url: str, model: PairModel, options: Options = Options(), *, priorities: Priorities = _one_for_all
    ) -> None:
        """url: as `serving.connection` reads it. The store need not be there yet."""
        self.model, self._keys = model, PairKeys(model=model.name, keys=Keys(options.partitions))
        self._nothing = np.empty(0, entry_type(model.width))
        self._tally = Tally(model)
        self._background = Background(url, model, options, self._tally, priorities)

    def read(self, user: SupportsIndex, items: Sequence[int] | NDArray[np.int64]) -> PairAnswer:
        """The representations of the user with each of `items`. ValueError for ids that are no int64, and for more
        items than the model's `most_items`."""
        asked = items if _are_ids(items) else _ids(items)
        user = _user_id(user)
        if len(asked) > self.model.most_items:
            raise ValueError(
                f"{len(asked)} items; {self.model.name} is asked for {self.model.most_items} at most a read"
            )
        value, outcome = self._value(user)
        now_ms, own = self._background.clock.now_ms(), self._nothing
        if value is not None:
            try:
                record = PairRecord.parse(value)
                own = record.alive(now_ms=now_ms, ttl_seconds=self.model.ttl_seconds, width=self.model.width)
            except RecordError as error:
                log.warning("user %d: %s", user, error)
                outcome = "damaged"
        if outcome == "found" and not len(own):
            outcome = "cold"
        answer = self._answer(user, asked, own, outcome, now_ms=now_ms)
        self._hand_on(answer)
        return answer

    @property
    def statistics(self) -> Statistics:
        """Of `serving.solaris.statistics.READER`, up to now."""
        return self._tally.counted()

    def _value(self, user: int) -> tuple[bytes | None, Outcome]:
        """Of the user's record, and what became of the read."""
        pool = self._background.pool(self._keys.keys.partition(user))
        if pool is None or not pool.breaker.allows(time.monotonic()):
            return None, "unavailable"
        command: bytes = hiredis.pack_command(("MGET", self._keys.user(user)))  # GET fails for what is no string
        try:
            (found,) = pool.call(command, 1, deadline=time.monotonic() + self.model.deadline_ms / 1000)
            require_no_error(found)
        except (LateError, BrokenError) as error:
            pool.breaker.failed(time.monotonic())
            is_late = isinstance(error, LateError)
            self._background.is_lost |= not is_late
            return None, "late" if is_late else "unavailable"
        pool.breaker.succeeded()
        return found[0], "found"

    def _answer(
        self, user: int, items: NDArray[np.int64], own: NDArray[Any], outcome: Outcome, *, now_ms: float
    ) -> PairAnswer:
        known = {} if len(own) else self._background.neighbours.of(items.tolist(), now_ms=now_ms)
        filled = fill(own["member"], own["vector"], items, known)
        ages, versions = np.full(len(items), np.nan, np.float32), np.zeros(len(items), np.uint32)
        if len(own):
            is_exact, places = filled.places >= 0, filled.places
            np.copyto(ages, (now_ms - own["write_ms"][places]) / 1000, where=is_exact, casting="same_kind")
            np.copyto(versions, own["version"][places], where=is_exact)
        return PairAnswer(
            user=user, items=items, vectors=filled.vectors, levels=filled.levels, ages_seconds=ages, versions=versions,
            outcome=outcome, served_ms=int(now_ms),
        )  # fmt: skip

    def _hand_on(self, answer: PairAnswer) -> None:
        """Misses, and what is nearly too old; of a read that the store did not answer nothing is known."""
        self._background.served(answer)
        if answer.outcome not in ("late", "unavailable"):
            wanted = ~(answer.ages_seconds <= self.model.fresh_seconds)  # those without an age are not there
            if wanted.any():
                self._background.want(answer.user, answer.items[wanted])

    def want(self, pairs: Sequence[Likely]) -> None:
        """Hand these on, as `read` does with misses: a predictor's word within the serving process."""
        self._background.want_likely(pairs)

    def flush(self, *, timeout_seconds: float = 5.0) -> bool:
        """Wait until everything is handed on. False: it was not."""
        return self._background.flush(timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """Hand on what waits, as far as the store takes it within a second, and stop."""
        self._background.close()

    def __enter__(self) -> PairReader:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


def _are_ids(items: object) -> TypeGuard[NDArray[np.int64]]:
    return isinstance(items, np.ndarray) and items.dtype == np.int64 and items.ndim == 1


def _user_id(user: SupportsIndex) -> int:
    """NumPy's whole numbers are whole numbers as well."""
    try:
        found = operator.index(user)
    except TypeError:
        found = 2**63
    if isinstance(user, bool) or not -(2**63) <= found < 2**63:
        raise ValueError(f"user {str(user)[:40]!r} is no user id; it is a whole number of 64 bits")
    return found


def _ids(items: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    try:
        found = np.asarray(items, np.int64)
    except (OverflowError, ValueError, TypeError) as error:
        raise ValueError(f"items {str(items)[:40]}: {error}; items are whole numbers of 64 bits") from error
    if found.ndim != 1 or not np.array_equal(found, np.asarray(items)):
        raise ValueError(f"items {str(items)[:40]} are no list of whole numbers")
    return found
