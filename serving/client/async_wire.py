"""The same connection for asyncio, of many callers at once: answers come in the order of the questions.

A caller that is late or cancelled leaves its place in the queue, so its answer is dropped when it comes and no other
caller gets it. A connection that nothing has come from for too long is given up with all that wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis

from serving.client.wire import BrokenError, LateError, Target, packed, require_welcome

_WAITS = object()
_STUCK_SECONDS = 3.0
"""Longer than anyone waits: who still asks is better served by a new connection."""


@dataclass(kw_only=True, slots=True)
class _Call:
    """num_answers: that the future waits for."""

    num_answers: int
    asked: float
    done: asyncio.Future[list[Any]]
    answers: list[Any] = field(default_factory=list)


class AsyncWire(asyncio.Protocol):
    """Once closed it stays closed; made open by `opened`."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_WAITS)
        self._calls: deque[_Call] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @staticmethod
    async def opened(target: Target, *, seconds: float) -> AsyncWire:
        """LateError after `seconds`, BrokenError."""
        try:
            async with asyncio.timeout(seconds):
                return await AsyncWire._opened(target, seconds)
        except TimeoutError as error:
            raise LateError(f"no connection to {target!r} in time") from error

    @staticmethod
    async def _opened(target: Target, seconds: float) -> AsyncWire:
        loop = asyncio.get_running_loop()
        try:
            if target.path is not None:
                _, wire = await loop.create_unix_connection(AsyncWire, target.path)
            else:
                _, wire = await loop.create_connection(AsyncWire, target.host, target.port, ssl=target.context)
        except OSError as error:
            raise BrokenError(f"no connection to {target!r}: {error}") from error
        try:
            if target.hello:
                require_welcome(target, await wire.call(packed(target.hello), len(target.hello), seconds=seconds))
        except BaseException:
            wire.close()
            raise
        return wire

    @property
    def is_open(self) -> bool:
        """Whether questions can be asked."""
        return self._transport is not None

    async def call(
        self, commands: bytes, num_answers: int, *, seconds: float, meanwhile: Callable[[], object] | None = None
    ) -> list[Any]:
        """Their answers, errors (`hiredis.ReplyError`) among them. LateError after `seconds`, BrokenError.

        meanwhile: what is done while the server works.
        """
        if self._transport is None:
            raise BrokenError("the connection was closed")
        now = self._loop.time()
        if self._calls and now - self._calls[0].asked > _STUCK_SECONDS:
            self.close("the server does not answer")
            raise BrokenError("the server does not answer")
        call = _Call(num_answers=num_answers, asked=now, done=self._loop.create_future())
        self._calls.append(call)
        self._transport.write(commands)
        if meanwhile is not None:
            meanwhile()
        timer = self._loop.call_later(seconds, _give_up, call.done)
        try:
            return await call.done
        finally:
            timer.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets(False)) is not _WAITS:
                call = self._calls[0]
                call.answers.append(answer)
                if len(call.answers) == call.num_answers:
                    self._calls.popleft()
                    if not call.done.done():
                        call.done.set_result(call.answers)
        except (hiredis.ProtocolError, IndexError) as error:
            self.close(f"not a Redis server: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self.close(str(exc or "the server closed the connection"))

    def close(self, why: str = "the connection was closed") -> None:
        """For good; whoever waits has a BrokenError."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        while self._calls:
            call = self._calls.popleft()
            if not call.done.done():
                call.done.set_exception(BrokenError(why))


def _give_up(done: asyncio.Future[list[Any]]) -> None:
    if not done.done():
        done.set_exception(LateError("no answer in time"))
