"""The connections of an event loop to each server: one for all calls, and one for every call that blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from serving.client.async_wire import AsyncWire
from serving.client.breaker import Breaker
from serving.client.options import BACKGROUND_SECONDS
from serving.client.wire import BrokenError, LateError, Target


class AsyncPool:
    """To one server. breaker: of the reads."""

    def __init__(self, target: Target, breaker: Breaker) -> None:
        self.target, self.breaker = target, breaker
        self._shared: AsyncWire | None = None
        self._opening: asyncio.Task[AsyncWire] | None = None
        self._alone: list[AsyncWire] = []

    async def call(
        self, commands: bytes, num_answers: int, *, seconds: float, meanwhile: Callable[[], object] | None = None
    ) -> list[Any]:
        """As `AsyncWire.call`. What a connection does not take, because the server closed it, a new one does."""
        wire = self._shared
        if wire is not None and wire.is_open:
            try:
                return await wire.call(commands, num_answers, seconds=seconds, meanwhile=meanwhile)
            except BrokenError:
                pass
        started = time.monotonic()
        wire = await self._opened(seconds)
        left = seconds - (time.monotonic() - started)
        return await wire.call(commands, num_answers, seconds=left, meanwhile=meanwhile)

    async def call_alone(self, commands: bytes, num_answers: int, *, seconds: float) -> list[Any]:
        """On a connection where nothing else waits."""
        while self._alone and not self._alone[-1].is_open:
            self._alone.pop()
        started = time.monotonic()
        wire = self._alone.pop() if self._alone else await AsyncWire.opened(self.target, seconds=seconds)
        try:
            answers = await wire.call(commands, num_answers, seconds=seconds - (time.monotonic() - started))
        except BaseException:
            wire.close()
            raise
        self._alone.append(wire)
        return answers

    async def _opened(self, seconds: float) -> AsyncWire:
        """One attempt for all that want it; who gives up does not end it for the others."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(AsyncWire.opened(self.target, seconds=BACKGROUND_SECONDS))
            self._opening.add_done_callback(self._take)
        opening = self._opening
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(opening)
        except TimeoutError as error:
            raise LateError("no connection in time") from error
        except asyncio.CancelledError as error:
            if opening.cancelled():  # the pool was closed; the caller was not
                raise BrokenError("the connection was closed") from error
            raise

    def _take(self, task: asyncio.Task[AsyncWire]) -> None:
        if task.cancelled() or task.exception() is not None:
            return
        if task is self._opening:
            self._shared = task.result()
        else:
            task.result().close()  # the pool was closed meanwhile

    def close(self) -> None:
        """Every connection; new ones are opened when they are needed."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        for wire in [*self._alone, *([self._shared] if self._shared is not None else [])]:
            wire.close()
        self._alone.clear()
        self._shared = None
