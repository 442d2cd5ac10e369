"""The stream of requests, as workers see it: each entry is given to one of them, and stays pending until it is done.

A user's marker goes before the features are read. A request that comes after that is queued again; the features of
one that came before are seen. So nothing that was accepted is lost, and what waits is computed once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from serving.calls import Call, Script
from serving.compute.scripts import DONE, LEAVE, SET_ASIDE, TAKE
from serving.connection import told
from serving.keys import GROUP, PREFIX, Keys

log = logging.getLogger(__name__)

_TAKE, _DONE, _SET_ASIDE, _LEAVE = Script(TAKE), Script(DONE), Script(SET_ASIDE), Script(LEAVE)
REPLY_MS = 1_000
"""How long an answer waits for whoever asked in real time."""
SET_ASIDE_KEPT = 1_000
"""Entries per stream."""
GONE_SECONDS = 3_600.0
"""A consumer that did nothing for so long, and has nothing to do, is forgotten."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The requests of one source in one partition."""

    source: str
    partition: int
    key: str

    @property
    def aside(self) -> str:
        """Where entries go that no worker gets done."""
        return f"{self.key}:aside"


_POLL_SECONDS = 0.005
_NOBODY = 2**63
"""The first number that is no user's."""
Key = tuple[str, bytes]
"""Of an entry: its stream's and its id."""


class Queued(NamedTuple):
    """One entry, given to this worker."""

    stream: Stream
    id: bytes
    user: int
    reply: str | None
    """Where somebody waits until the user is computed."""
    deliveries: int

    @property
    def key(self) -> Key:
        """As no other has."""
        return self.stream.key, self.id

    @property
    def arrived_ms(self) -> int:
        """By the store's clock."""
        return int(self.id.partition(b"-")[0])


class Features(NamedTuple):
    """What is known of a user."""

    feature_ms: int
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Of one source: how many entries wait or are worked on, and the age of the oldest, in seconds."""

    length: int
    oldest_seconds: float


class Requests:
    """redis: as `serving.connection` gives it. streams: the worker's. consumer: its name, as no other has it."""

    def __init__(self, client: redis.Redis, keys: Keys, streams: Sequence[Stream], *, consumer: str) -> None:
        self.redis, self.keys, self.consumer = client, keys, consumer
        self._streams = {stream.key.encode(): stream for stream in streams}
        self._cluster = isinstance(client, redis.RedisCluster)

    @property
    def streams(self) -> list[Stream]:
        """Those that are read."""
        return list(self._streams.values())

    def open(self) -> None:
        """Make the streams and their group, where they are not."""
        for stream in self.streams:
            try:
                self.redis.xgroup_create(stream.key, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def read(self, sources: Collection[str], *, count: int, block_ms: int | None = None) -> list[Queued]:
        """New entries of `sources`, about `count`. block_ms: how long to wait for the first."""
        wanted = [stream for stream in self.streams if stream.source in sources]
        if not wanted:
            return []
        each = -(-count // len(wanted))
        if not self._cluster or len(wanted) == 1:
            return self._read(wanted, count=each, block_ms=block_ms)
        # of streams in several slots none can be waited for: they are asked in turn
        found = [entry for one in wanted for entry in self._read([one], count=each, block_ms=None)]
        if not found and block_ms:
            time.sleep(min(block_ms / 1000, _POLL_SECONDS))
        return found

    def _read(self, streams: Sequence[Stream], *, count: int, block_ms: int | None) -> list[Queued]:
        names: dict[Any, Any] = {stream.key: ">" for stream in streams}

        def read() -> Any:
            return self.redis.xreadgroup(GROUP, self.consumer, names, count=count, block=block_ms)

        found = self._opened(read)
        return [one for key, entries in found for one in self._queued(self._streams[key], entries, {})]

    def take(self, entries: Sequence[Queued]) -> list[Features | None]:
        """The users' markers go, then their features are read; None where they are known no more. Of one source."""
        found: dict[int, Features | None] = {}
        for stream, those in _by_stream(entries):
            users = list(dict.fromkeys(one.user for one in those))
            names = [
                *self.keys.queued_of(stream.source, users, stream.partition),
                *self.keys.features_of(stream.source, users, stream.partition),
            ]
            (values,) = _TAKE.run(self.redis, [(names, ())])
            found |= dict(zip(users, map(_features, values), strict=True))
        return [found[one.user] for one in entries]

    def done(self, entries: Sequence[Queued], *, without: Collection[int] = ()) -> int:
        """Off the stream, and whoever waits is told: 1, or 0 where the user got no vectors; how many nobody else had
        done. without: users without vectors."""
        calls: list[Call] = []
        for stream, those in _by_stream(entries):
            replies = {one.reply: one.user not in without for one in those if one.reply is not None}
            answers = "".join("1" if good else "0" for good in replies.values())
            calls.append(([stream.key, *replies], [GROUP, REPLY_MS, answers, *(one.id for one in those)]))
        return sum(_DONE.run(self.redis, calls))

    def claim(
        self, sources: Collection[str], *, idle_ms: int, most: int, count: int, mine: Collection[Key]
    ) -> tuple[list[Queued], int]:
        """Entries that were given to a worker `idle_ms` ago and are not done; and how many were set aside.

        mine: what this worker is working on. Those that were delivered `most` times are set aside.
        """
        claimed: list[Queued] = []
        aside = 0
        for stream in self.streams:
            if stream.source not in sources:
                continue
            found = self._claim(stream, idle_ms=idle_ms, count=count, mine=mine)
            aside += self._put_aside(stream, [one for one in found if one.deliveries > most])
            claimed += [one for one in found if one.deliveries <= most]
        return claimed, aside

    def _claim(self, stream: Stream, *, idle_ms: int, count: int, mine: Collection[Key]) -> list[Queued]:
        def pending() -> Any:
            return self.redis.xpending_range(stream.key, GROUP, min="-", max="+", count=count, idle=idle_ms)

        times = {one["message_id"]: int(one["times_delivered"]) for one in self._opened(pending)}
        wanted: list[Any] = [number for number in times if (stream.key, number) not in mine]
        if not wanted:
            return []
        given: Any = self.redis.xclaim(stream.key, GROUP, self.consumer, idle_ms, wanted)
        found = {number: fields for number, fields in given if number is not None}
        for number in wanted:  # what somebody deleted can never be done
            if number not in found and not self.redis.xrange(stream.key, number, number):
                self.redis.xack(stream.key, GROUP, number)
        return self._queued(stream, found.items(), times)

    def _put_aside(self, stream: Stream, entries: Sequence[Queued]) -> int:
        if not entries:
            return 0
        arguments: list[Any] = [GROUP, SET_ASIDE_KEPT]
        for one in entries:
            log.error("set aside stream=%s id=%s user=%d deliveries=%d", stream.key, one.id.decode(), one.user,
                      one.deliveries)  # fmt: skip
            arguments += [one.id, one.user, one.deliveries]
        _SET_ASIDE.run(self.redis, [([stream.key, stream.aside], arguments)])
        return len(entries)

    def waiting(self) -> dict[str, Waiting]:
        """By source."""
        now_ms = store_ms(self.redis)
        pipeline: Any
        with self.redis.pipeline(transaction=False) as pipeline:
            for stream in self.streams:
                pipeline.xlen(stream.key)
                pipeline.xrange(stream.key, count=1)
            answers = pipeline.execute()
        found: dict[str, Waiting] = {}
        for stream, length, first in zip(self.streams, answers[::2], answers[1::2], strict=True):
            age = max(now_ms - int(first[0][0].partition(b"-")[0]), 0) / 1000 if first else 0.0
            before = found.get(stream.source, Waiting(length=0, oldest_seconds=0.0))
            found[stream.source] = Waiting(
                length=before.length + length, oldest_seconds=max(before.oldest_seconds, age)
            )
        return found

    def leave(self) -> None:
        """Forget this consumer, where it has nothing to do, and those that are long gone."""
        for stream in self.streams:
            gone = {self.consumer}
            with suppress(redis.RedisError):  # nothing depends on it
                consumers: Any = self.redis.xinfo_consumers(stream.key, GROUP)
                for one in consumers:
                    if one["idle"] > 1000 * GONE_SECONDS and not one["pending"]:
                        gone.add(one["name"])
                for name in gone:
                    _LEAVE.run(self.redis, [([stream.key], [GROUP, name])])

    def _opened(self, ask: Callable[[], Any]) -> Any:
        """What the stream answers; a store that was emptied has no group any more."""
        try:
            return ask()
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise told(error) from error
            log.warning("the store has lost the group %s, which is made again: %s", GROUP, error)
            self.open()
            return ask()

    def _queued(self, stream: Stream, entries: Iterable[Any], times: dict[bytes, int]) -> list[Queued]:
        """What is no request is done with."""
        found, damaged = [], []
        replies = f"{PREFIX}:{{{stream.partition}}}:"
        for number, fields in entries:
            try:
                user = int(fields[b"u"])
            except (TypeError, KeyError, ValueError):
                user = _NOBODY
            if not -_NOBODY <= user < _NOBODY:
                damaged.append(Queued(stream, number, 0, None, 1))
                continue
            reply = None
            if b"r" in fields:
                reply = fields[b"r"].decode(errors="replace")
                if not reply.startswith(replies):
                    reply = None  # of another slot: the call would fail for everybody's
            found.append(Queued(stream, number, user, reply, times.get(number, 0) + 1))
        if damaged:
            log.error("no requests, dropped stream=%s ids=%s", stream.key, [one.id.decode() for one in damaged[:5]])
            self.done(damaged)
        return found


def streams_of(sources: Iterable[str], partitions: Iterable[int], keys: Keys) -> list[Stream]:
    """Every source's, in these partitions. ValueError for a partition that the store has not."""
    wanted = sorted(set(partitions))
    if outside := [one for one in wanted if not 0 <= one < keys.partitions]:
        raise ValueError(f"partitions {outside[:5]}: the store has {keys.partitions}, from 0 on")
    return [
        Stream(source=source, partition=one, key=keys.requests(source, one))
        for source in sorted(set(sources))
        for one in wanted
    ]


def store_ms(client: redis.Redis) -> int:
    """The store's clock."""
    found: Any = client.time()
    return int(found[0]) * 1000 + int(found[1]) // 1000


def _by_stream(entries: Sequence[Queued]) -> list[tuple[Stream, list[Queued]]]:
    found: dict[Stream, list[Queued]] = {}
    for one in entries:
        found.setdefault(one.stream, []).append(one)
    return list(found.items())


def _features(value: bytes | None) -> Features | None:
    if value is None or len(value) < 8:
        return None
    return Features(int.from_bytes(value[:8], "little", signed=True), value[8:])
