"""The queue of pairs, as workers see it: each pair is given to one of them, the highest priority first.

A pair that is given out is leased: whoever neither gets it done nor renews the lease loses it to the next who asks.
What was given out too often is set aside. The budget is kept where all workers meet, in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import redis

from serving.calls import Call, Script
from serving.connection import told
from serving.keys import Keys
from serving.solaris.interfaces import Likely
from serving.solaris.keys import PairKeys, packed, unpacked
from serving.solaris.model import PairModel
from serving.solaris.scripts import DONE_PAIRS, RENEW_PAIRS, TAKE_PAIRS
from serving.solaris.store import values_of
from serving.store import milliseconds

log = logging.getLogger(__name__)

_TAKE, _DONE, _RENEW = Script(TAKE_PAIRS), Script(DONE_PAIRS), Script(RENEW_PAIRS)
ALONE_FROM = 3
"""Deliveries: what others died of twice is given out alone."""
BURST_SECONDS = 1.0
"""After a pause, so many seconds' worth of the budget may be taken at once."""
SET_ASIDE_KEPT = 1_000
"""Pairs per partition."""
_MEMBERS_PER_CALL = 1_000


class Leased(NamedTuple):
    """A pair that this worker is to compute."""

    user: int
    item: int
    priority: float
    partition: int
    deliveries: int

    @property
    def pair(self) -> Likely:
        """As it was asked for."""
        return Likely(self.user, self.item, self.priority)


class Taken(NamedTuple):
    """What a worker got. again: pairs that came back from workers that did not get them done; aside: that were set
    aside."""

    pairs: list[Leased]
    again: int
    aside: int


class PairQueue:
    """Of one model, in these partitions."""

    def __init__(self, client: redis.Redis, model: PairModel, keys: Keys, partitions: Iterable[int]) -> None:
        self.redis, self.model, self.keys = client, model, PairKeys(model=model.name, keys=keys)
        self.partitions = sorted(set(partitions))
        self._first = 0
        if not self.partitions or not 0 <= self.partitions[0] <= self.partitions[-1] < keys.partitions:
            raise ValueError(f"partitions {self.partitions[:5]}; the store has {keys.partitions}, from 0 on")

    def take(self, *, most: int, lease_seconds: float, most_deliveries: int) -> Taken:
        """`most` pairs or fewer, as the budget allows: of each partition the highest priorities. One round trip.

        Of a partition, what was given out twice already comes alone. With fewer pairs than partitions, some of these
        are asked, others the next time. redis.RedisError: of one partition where none answered; of those that did,
        nothing is lost.
        """
        shares = self._shares(most)
        interval = 1e6 * self.keys.keys.partitions / self.model.pairs_per_second
        arguments = [
            milliseconds(lease_seconds), most_deliveries, interval, max(1e6 * BURST_SECONDS, interval), SET_ASIDE_KEPT,
            ALONE_FROM,
        ]  # fmt: skip
        calls: list[Call] = [(self._names(partition), [each, *arguments]) for partition, each in shares.items()]
        answers = _TAKE.answers(self.redis, calls)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if len(failed) == len(answers):
            raise failed[0]
        if failed:
            log.error("not taken model=%s partitions=%d of %d: %s", self.model.name, len(failed), len(answers),
                      failed[0])  # fmt: skip
        found, again, aside = list[Leased](), 0, 0
        for partition, answer in zip(shares, answers, strict=True):
            if isinstance(answer, Exception):
                continue
            again, aside = again + answer[0], aside + answer[1]
            found += self._leased(partition, answer[2:])
        if aside:
            log.error("set aside model=%s pairs=%d: they were given out %d times", self.model.name, aside,
                      most_deliveries)  # fmt: skip
        return Taken(sorted(found, key=lambda one: -one.priority), again, aside)

    def _shares(self, most: int) -> dict[int, int]:
        """How many of each partition, `most` together; those that get more, or any, take turns."""
        number = len(self.partitions)
        turn = [*self.partitions[self._first :], *self.partitions[: self._first]]
        self._first = (self._first + most) % number
        shares = {partition: most // number + (place < most % number) for place, partition in enumerate(turn)}
        return {partition: share for partition, share in shares.items() if share}

    def _names(self, partition: int) -> list[str]:
        keys = self.keys
        return [keys.queue(partition), keys.leases(partition), keys.held(partition), keys.rate(partition),
                keys.aside(partition)]  # fmt: skip

    def _leased(self, partition: int, told: Sequence[Any]) -> list[Leased]:
        found, damaged = [], []
        for member, priority, deliveries in zip(told[::3], told[1::3], told[2::3], strict=True):
            try:
                user, item = unpacked(member)
            except ValueError as error:
                log.error("dropped: %s", error)
                damaged.append(member)
            else:
                found.append(Leased(user, item, float(priority), partition, deliveries))
        if damaged:
            self._done(partition, damaged)
        return found

    def done(self, pairs: Iterable[Leased]) -> int:
        """Their leases go; how many were still leased."""
        return sum(self._done(partition, members) for partition, members in _members(pairs))

    def _done(self, partition: int, members: Sequence[bytes]) -> int:
        return sum(_DONE.run(self.redis, [([self.keys.leases(partition), self.keys.held(partition)], members)]))

    def renew(self, pairs: Iterable[Leased], *, lease_seconds: float) -> None:
        """Their leases begin anew: whoever works on them is alive."""
        lease = milliseconds(lease_seconds)
        calls: list[Call] = [
            ([self.keys.leases(partition)], [lease, *members]) for partition, members in _members(pairs)
        ]  # fmt: skip
        _RENEW.run(self.redis, calls)

    def features(self, users: Sequence[int]) -> dict[int, tuple[int, bytes]]:
        """The newest features that the store knows: (feature time in ms, `serving.features`' payload) by user."""
        keys = self.keys.keys
        values = values_of(self.redis, [keys.features(self.model.source, user) for user in users])
        return {
            user: (int.from_bytes(value[:8], "little", signed=True), value[8:])
            for user, value in zip(users, values, strict=True)
            if value is not None and len(value) >= 8
        }

    def length(self) -> tuple[int, int, int]:
        """Pairs that wait, that are worked on, that are set aside. redis.RedisError, one of UNAVAILABLE where it will
        pass."""
        pipeline: Any
        with self.redis.pipeline(transaction=False) as pipeline:
            for partition in self.partitions:
                pipeline.zcard(self.keys.queue(partition))
                pipeline.zcard(self.keys.leases(partition))
                pipeline.llen(self.keys.aside(partition))
            found = [told(one) if isinstance(one, Exception) else one for one in pipeline.execute(raise_on_error=False)]
        counts: list[int] = []
        for one in found:
            if isinstance(one, Exception):
                raise one
            counts.append(one)
        return sum(counts[::3]), sum(counts[1::3]), sum(counts[2::3])


def _members(pairs: Iterable[Leased]) -> Iterator[tuple[int, list[bytes]]]:
    """By partition, as many as one call takes."""
    found: dict[int, list[bytes]] = {}
    for one in pairs:
        found.setdefault(one.partition, []).append(packed(one.user, one.item))
    for partition, members in found.items():
        for begin in range(0, len(members), _MEMBERS_PER_CALL):
            yield partition, members[begin : begin + _MEMBERS_PER_CALL]
