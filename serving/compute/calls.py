"""Script calls, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
"""The store cannot now; the same again may be done later."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: all keys in one slot."""

    keys: Sequence[str | bytes]
    arguments: Sequence[Any]


class Script:
    """Loaded into the server when it turns out to be missing there."""

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._client, self._text = client, text
        self._sha = client.register_script(text).sha
        self._cluster = isinstance(client, redis.RedisCluster)

    def __call__(self, call: Call) -> Any:
        """Its answer. What the script raises is raised."""
        (found,) = self.all([call])
        if isinstance(found, Exception):
            raise found
        return found

    def all(self, calls: Sequence[Call]) -> list[Any]:
        """Each call's answer, or the error that the store answered. One round trip; in a cluster one per call.

        Those of UNAVAILABLE are raised: some of the calls may have been done.
        """
        found = self._send(calls)
        if any(isinstance(one, NoScriptError) for one in found):  # a restarted server has none
            self._client.script_load(self._text)
            again = [at for at, one in enumerate(found) if isinstance(one, NoScriptError)]
            for at, one in zip(again, self._send([calls[at] for at in again]), strict=True):
                found[at] = one
        for one in found:
            if isinstance(one, UNAVAILABLE):
                raise one
        return found

    def _send(self, calls: Sequence[Call]) -> list[Any]:
        if self._cluster or len(calls) == 1:  # a pipeline to a cluster cannot call scripts
            return [self._one(call) for call in calls]
        with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
            return pipeline.execute(raise_on_error=False)

    def _one(self, call: Call) -> Any:
        try:
            return self._client.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
        except UNAVAILABLE:
            raise
        except redis.ResponseError as error:
            return error
