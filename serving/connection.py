"""Connections to the feature store: the embedded Redis, any other, or a cluster, by URL.

`redis://`, `rediss://` (TLS) and `unix://` as redis-py reads them; `redis+cluster://` and `rediss+cluster://` name one
node of a cluster, through which the others are found.
"""

from __future__ import annotations

import re
from typing import Any

import redis
import redis.asyncio

UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.RedisClusterException,
    redis.exceptions.TryAgainError,
)
"""The store cannot now; the same may be tried again later."""
_PASSING = re.compile(r"\b(READONLY|OOM|MISCONF|NOREPLICAS|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|UNBLOCKED)\b")


def told(error: Exception) -> Exception:
    """The error that a command or a script was answered with, as one of UNAVAILABLE where it will pass: redis-py knows
    some codes by their class, and none inside of a script's message."""
    if isinstance(error, redis.ResponseError) and not isinstance(error, UNAVAILABLE) and _PASSING.search(str(error)):
        return redis.exceptions.TryAgainError(str(error))
    return error


def connect(url: str, *, timeout_seconds: float, **options: Any) -> redis.Redis:
    """A client that waits no longer than this for an answer, or for a connection. ValueError for no Redis URL."""
    waits = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    if is_cluster(url):
        made: Any = redis.RedisCluster.from_url(_plain(url), **waits, **options)
        return made  # type: ignore[no-any-return]
    return redis.Redis.from_url(url, **waits, **options)


def connect_async(url: str, *, timeout_seconds: float, **options: Any) -> redis.asyncio.Redis:
    """The same for asyncio; connects when it is first used."""
    waits: dict[str, Any] = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    if is_cluster(url):
        made: Any = redis.asyncio.RedisCluster.from_url(_plain(url), **waits, **options)
        return made  # type: ignore[no-any-return]
    return redis.asyncio.Redis.from_url(url, **waits, **options)


def is_cluster(url: str) -> bool:
    """Whether it names a node of a cluster."""
    return "+cluster://" in url


def _plain(url: str) -> str:
    return url.replace("+cluster://", "://", 1)
