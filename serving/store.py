"""The feature store (section 4): computed vectors per (model, user) in Redis, merged atomically, read in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.settings import Settings
from serving.calls import Call, Script
from serving.connection import connect
from serving.keys import LAYOUT, ONE_SERVER, SERVED, Keys
from serving.record import KEPT, LOOKBACK_SECONDS, Entry, Record, header
from serving.scripts import ENQUEUE, MERGE
from serving.served import Served

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from trainer.serving import Pool

MARKER_MS = 60_000
"""A request whose marker is older is queued again: whoever took it lost it."""
_LONGEST_SECONDS = 100 * 365 * 86_400.0
_MERGE, _ENQUEUE = Script(MERGE), Script(ENQUEUE)


def milliseconds(seconds: float) -> int:
    """As Redis takes times and their ends: 1 or more, and for ever is a hundred years."""
    return max(int(1000 * min(seconds, _LONGEST_SECONDS)), 1)


@dataclass(frozen=True, kw_only=True)
class Write:
    """New vectors of one user, of several models: one script call. entries: by model, with the key's ttl in seconds."""

    user: int
    entries: Mapping[str, tuple[Entry, float]]
    future_seconds: float
    pool: Pool = "computations"

    def arguments(self, keys: Keys) -> Call:
        """KEYS and ARGV of MERGE."""
        arguments: list[Any] = [milliseconds(self.future_seconds), KEPT, milliseconds(LOOKBACK_SECONDS)]
        for entry, ttl_seconds in self.entries.values():
            num_embeddings, dim = entry.vectors.shape
            arguments += [milliseconds(ttl_seconds), header(num_embeddings, dim, self.pool), entry.packed()]
        return keys.records(tuple(self.entries), self.user), arguments


@dataclass(frozen=True, kw_only=True)
class Request:
    """A user to compute, of one source. payload: of `serving.features`; empty: with the features that are known."""

    source: str
    user: int
    feature_ms: int
    payload: bytes = b""
    ttl_seconds: float
    """Of the features."""
    longest: int
    """Of the stream: a request that finds it so long is shed."""
    future_seconds: float
    max_per_second: float = float("inf")
    """Inferences of the source in this user's partition; a request above is refused."""
    reply: str = ""
    """`Keys.reply` of a real-time request: where it waits for its inference."""

    def arguments(self, keys: Keys) -> Call:
        """KEYS and ARGV of ENQUEUE."""
        partition = keys.partition(self.user)
        names = [
            keys.features(self.source, self.user),
            keys.queued(self.source, self.user),
            keys.requests(self.source, partition),
            keys.rate(self.source, partition),
        ]
        if self.reply:
            names.append(self.reply)
        interval = int(1e6 / self.max_per_second)
        ttl, allowance = milliseconds(self.ttl_seconds), milliseconds(self.future_seconds)
        return names, [self.user, self.feature_ms, self.payload, ttl, MARKER_MS, self.longest, allowance, interval]


class Store:
    """redis: a client or cluster client of redis-py, which hands out bytes (else ValueError). keys: as every other
    client of this store has them."""

    def __init__(self, redis: redis.Redis, keys: Keys = ONE_SERVER) -> None:
        _require_bytes(redis)
        self.redis, self.keys = redis, keys

    def require_layout(self) -> None:
        """ValueError where the store was written with another number of partitions."""
        self.redis.setnx(LAYOUT, self.keys.partitions)
        require_layout(self.redis.get(LAYOUT), self.keys)

    def read(self, user: int, models: tuple[str, ...]) -> list[Record | None]:
        """The user's records, one per model: one round trip. RecordError for a value that is none."""
        return _records(self.redis.mget(self.keys.records(models, user)))

    def write(self, writes: Sequence[Write]) -> list[dict[str, int]]:
        """Each user's entries, atomically: their places by model (`serving.scripts.MERGE`). One round trip for all."""
        found = _MERGE.run(self.redis, [write.arguments(self.keys) for write in writes])
        return [dict(zip(write.entries, places, strict=True)) for write, places in zip(writes, found, strict=True)]

    def enqueue(self, requests: Sequence[Request]) -> list[int]:
        """What became of each (`serving.scripts.ENQUEUE`). One round trip for all."""
        return _ENQUEUE.run(self.redis, [request.arguments(self.keys) for request in requests])

    def announce(self, served: Served) -> None:
        """Tell every client what is served now."""
        self.redis.hset(SERVED, served.model, served.to_json())

    def served(self) -> dict[str, Served]:
        """What is served, by model."""
        return _served(self.redis.hgetall(SERVED))


def store_of(settings: Settings, *, timeout_seconds: float = 5.0) -> Store:
    """The installation's feature store. ValueError: there is none, or it has another number of partitions."""
    store = Store(connect(settings.feature_store(), timeout_seconds=timeout_seconds), Keys(settings.redis_partitions))
    store.require_layout()
    return store


class AsyncStore:
    """The same for asyncio."""

    def __init__(self, redis: redis.asyncio.Redis, keys: Keys = ONE_SERVER) -> None:
        _require_bytes(redis)
        self.redis, self.keys = redis, keys

    async def require_layout(self) -> None:
        """As `Store.require_layout`."""
        await self.redis.setnx(LAYOUT, self.keys.partitions)
        require_layout(await self.redis.get(LAYOUT), self.keys)

    async def read(self, user: int, models: tuple[str, ...]) -> list[Record | None]:
        """As `Store.read`."""
        return _records(await self.redis.mget(self.keys.records(models, user)))

    async def enqueue(self, requests: Sequence[Request]) -> list[int]:
        """As `Store.enqueue`."""
        return await _ENQUEUE.run_async(self.redis, [request.arguments(self.keys) for request in requests])

    async def served(self) -> dict[str, Served]:
        """As `Store.served`."""
        return _served(await self.redis.hgetall(SERVED))


def _require_bytes(client: Any) -> None:
    if client.get_encoder().decode_responses:
        raise ValueError(
            "the client decodes what it reads, and vectors are no text; leave decode_responses out of the URL"
        )


def _records(values: Any) -> list[Record | None]:
    return [None if value is None else Record.parse(value) for value in values]


def _served(found: Any) -> dict[str, Served]:
    return {model.decode(): Served.from_json(text) for model, text in found.items()}


def require_layout(found: Any, keys: Keys) -> None:
    """ValueError unless `found` is the number of partitions."""
    if int(found) != keys.partitions:
        raise ValueError(
            f"the store was written with {int(found)} partitions, this client has {keys.partitions}; "
            "every client of a store has the same number: set it, or empty the store"
        )
