"""Scripts called many at a time, in one round trip, on one server or on the nodes of a cluster.

redis-py's own scripts ask, before every pipeline, whether the server has them (a round trip more), and are barred from
a cluster's pipelines. Here a call says the script's hash, and only a server that answers that it has no such script (it
was restarted, or flushed) is given the text and called again, for exactly the calls that it did not do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis
    import redis.asyncio

Call = tuple[Sequence[str], Sequence[Any]]
"""Keys, all in one slot, and arguments."""


class Script:
    """A Lua script."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
        """Each call's answer, in order. redis.RedisError: the first that failed; the others may have been done."""
        return _raised(self.answers(client, calls))

    def answers(self, client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
        """As `run`; of a call that failed, its error."""
        found = self._execute(client, calls)
        if missing := _missing(found):
            client.script_load(self.text)
            again = self._execute(client, [calls[at] for at in missing])
            found = _filled(found, missing, again)
        return found

    async def run_async(self, client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Any]:
        """The same for asyncio."""
        found = await self._execute_async(client, calls)
        if missing := _missing(found):
            await client.script_load(self.text)
            again = await self._execute_async(client, [calls[at] for at in missing])
            found = _filled(found, missing, again)
        return _raised(found)

    def _execute(self, client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
        pipeline: Any
        with client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
            return _told(pipeline.execute(raise_on_error=False))

    async def _execute_async(self, client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Any]:
        async with client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
            return _told(await pipeline.execute(raise_on_error=False))


def _told(found: Sequence[Any]) -> list[Any]:
    from serving.connection import told

    return [told(one) if isinstance(one, Exception) else one for one in found]


def _missing(found: Sequence[Any]) -> list[int]:
    from redis.exceptions import NoScriptError

    return [at for at, one in enumerate(found) if isinstance(one, NoScriptError)]


def _filled(found: list[Any], places: Sequence[int], again: Sequence[Any]) -> list[Any]:
    for at, one in zip(places, again, strict=True):
        found[at] = one
    return found


def _raised(found: list[Any]) -> list[Any]:
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found
