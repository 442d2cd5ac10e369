"""Requests on their way to the compute center: gathered after the answers, sent together, counted by what became of
them."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hiredis

from serving.calls import Script
from serving.client.answer import Computation
from serving.keys import Keys
from serving.scripts import ENQUEUE
from serving.statistics import Statistics
from serving.store import Request

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOAD = ("SCRIPT", "LOAD", ENQUEUE)
"""What a connection that enqueues begins with: a store that was restarted knows no script."""
TOGETHER = 32
"""Requests per round trip: the store serves nobody else while it works through them."""
_SHA = Script(ENQUEUE).sha
_OUTCOMES: dict[int, Computation | str] = {
    1: "queued", 0: "coalesced", -1: "shed", -2: "no_features", -3: "future", -4: "rate_limited"
}  # fmt: skip
_PASSING = {"NOSCRIPT", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "BUSY", "READONLY"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that is to be sent. models: that it is counted for. command: packed where the request is made, so that
    the sender has little to do beside the threads that read."""

    models: tuple[str, ...]
    partition: int
    command: bytes


def command(request: Request, keys: Keys) -> bytes:
    """ENQUEUE, packed."""
    names, arguments = request.arguments(keys)
    packed: bytes = hiredis.pack_command(("EVALSHA", _SHA, len(names), *names, *arguments))
    return packed


def outcome(answer: Any) -> str:
    """Of ENQUEUE's answer."""
    return _OUTCOMES.get(answer, "failed") if isinstance(answer, int) else "failed"


def is_passing(answer: Any) -> bool:
    """Whether it is an error that a new connection, or a little time, may mend."""
    return isinstance(answer, hiredis.ReplyError) and str(answer).split(" ", 1)[0] in _PASSING


class Outbox:
    """A bounded buffer. Any thread offers; one sends."""

    def __init__(self, statistics: Statistics, *, capacity: int) -> None:
        self._statistics, self._capacity = statistics, capacity
        self._waiting: deque[Waiting] = deque()
        self._taken = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits or is being sent."""
        return not self._waiting and not self._taken

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def offer(self, one: Waiting) -> bool:
        """False: there is no room."""
        if len(self._waiting) >= self._capacity:
            return False
        self._waiting.append(one)
        return True

    def take(self, servers: Sequence[T]) -> dict[T, list[Waiting]]:
        """The oldest, TOGETHER at most, by server. servers: of each partition. All are `sent` or `put_back` then."""
        taken: dict[T, list[Waiting]] = {}
        for _ in range(min(len(self._waiting), TOGETHER)):
            one = self._waiting.popleft()
            self._taken += 1
            taken.setdefault(servers[one.partition], []).append(one)
        return taken

    def put_back(self, taken: Sequence[Waiting]) -> None:
        """They could not be sent; they are the first to be tried again."""
        self._waiting.extendleft(reversed(taken))
        self._taken -= len(taken)
        self._statistics.event("sends_failed")

    def sent(self, taken: Sequence[Waiting], answers: Sequence[Any]) -> bool:
        """Count what became of each. False: some are to be tried again, on a new connection."""
        again: list[Waiting] = []
        if any(isinstance(answer, hiredis.ReplyError) for answer in answers):
            again = [one for one, answer in zip(taken, answers, strict=True) if is_passing(answer)]
            wrong = [answer for answer in answers if isinstance(answer, hiredis.ReplyError)]
            logger.warning("%d of %d requests were refused by the store: %s", len(wrong), len(taken), wrong[0])
        outcomes = Counter(
            [
                (one.models, outcome(answer))
                for one, answer in zip(taken, answers, strict=True)
                if not again or not is_passing(answer)
            ]
        )
        for (models, became), count in outcomes.items():
            self._statistics.sent(models, became, count)
        self._taken -= len(taken) - len(again)
        if again:
            self.put_back(again)
        return not again


def drained(is_empty: Callable[[], bool], wake: Callable[[], None], *, timeout_seconds: float) -> bool:
    """Wait until all is sent, waking the sender meanwhile. False: it was not, within that time."""
    deadline = time.monotonic() + timeout_seconds
    while not is_empty():
        if time.monotonic() > deadline:
            return False
        wake()
        time.sleep(0.001)
    return True
