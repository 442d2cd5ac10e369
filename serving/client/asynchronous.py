"""The client for asyncio: as `serving.client.sync`, with one connection for all the reads of a server."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from serving.client import realtime, refresh
from serving.client.answer import Answer, Computation, Reason
from serving.client.async_pool import AsyncPool
from serving.client.core import Core, Draft
from serving.client.model import Model
from serving.client.options import BACKGROUND_SECONDS, RETRY_SECONDS, Options
from serving.client.outbox import TOGETHER, is_passing
from serving.client.question import Inference, Question
from serving.client.route import Route, Servers
from serving.client.wire import BrokenError, LateError, Target, require_no_error

logger = logging.getLogger(__name__)

_DEFAULT = Options()


class AsyncEmbeddingClient:
    """Of the user models of one store, in one event loop; `async with`, or `open` and `close`.

    As `serving.client.sync.EmbeddingClient` otherwise.
    """

    def __init__(self, url: str, models: Sequence[Model], options: Options = _DEFAULT) -> None:
        """url: as `serving.connection` reads it."""
        self._core = Core(models, options)
        self._url, self._knows_layout = url, False
        self._known: Servers[AsyncPool] | None = None
        self._nonce, self._count = secrets.token_hex(8), itertools.count()
        self._sending: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """ValueError: the store has another number of partitions. A store that is not there is looked for later."""
        try:
            await self._refresh()
        except ValueError:
            self._disconnect()
            raise
        self._refreshing = asyncio.create_task(self._refresh_all(), name="embeddings-refresh")

    async def get(
        self,
        user: int,
        models: Sequence[str] | None = None,
        *,
        features: Mapping[str, Any] | None = None,
        feature_time: datetime | None = None,
    ) -> dict[str, Answer]:
        """As `EmbeddingClient.get`."""
        core = self._core
        question = core.question(user, models)
        draft = Draft(core, question, features, feature_time)
        values = await self._read(question, draft)
        inference, found = draft(), core.found(question, values)
        if core.waits(question, found) and not isinstance(values, str):
            values, computation = await self._wait(question, inference, values)
            return core.answers(question, inference, core.found(question, values), waited=computation)
        answers = core.answers(question, inference, found)
        self._wake()
        return answers

    def statistics(self) -> dict[str, Any]:
        """As `EmbeddingClient.statistics`."""
        return self._core.snapshot()

    async def flush(self, *, timeout_seconds: float = 5.0) -> bool:
        """Wait until everything is sent. False: it was not."""
        deadline = time.monotonic() + timeout_seconds
        while not self._core.outbox.is_empty:
            if time.monotonic() > deadline:
                return False
            self._wake()
            await asyncio.sleep(0.001)
        return True

    async def close(self) -> None:
        """Send what waits, as far as the store takes it within a second, and stop."""
        if not await self.flush(timeout_seconds=1.0):
            logger.warning("%d requests for inference were not sent", len(self._core.outbox))
        tasks = [task for task in (self._sending, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._disconnect()
        await asyncio.sleep(0)  # a transport that was aborted ends in the loop's next turn

    async def __aenter__(self) -> AsyncEmbeddingClient:
        """Opens."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        await self.close()

    def _pool(self, target: Target) -> AsyncPool:
        return AsyncPool(target, self._core.new_breaker())

    def _disconnect(self) -> None:
        for pool in self._known.all if self._known is not None else ():
            pool.close()

    async def _read(self, question: Question, draft: Draft) -> Sequence[Any] | Reason:
        core, now = self._core, time.monotonic()
        if self._known is None:
            return core.read_failed(BrokenError("the store has not been reached yet"))
        pool = self._known.reads[question.partition]
        if not pool.breaker.allows(now):
            return core.not_tried()
        try:
            (values,) = await pool.call(question.read, 1, seconds=question.group.deadline_seconds, meanwhile=draft)
            require_no_error(values)
        except (LateError, BrokenError) as error:
            pool.breaker.failed(time.monotonic())
            core.is_lost |= pool.breaker.is_open
            return core.read_failed(error)
        pool.breaker.succeeded()
        return values  # type: ignore[no-any-return]

    async def _wait(
        self, question: Question, inference: Inference, earlier: Sequence[Any]
    ) -> tuple[Sequence[Any], Computation]:
        """As `EmbeddingClient._wait`."""
        core = self._core
        reply = core.keys.reply(question.user, f"{self._nonce}{next(self._count)}")
        try:
            pool = self._servers().sends[question.partition]
            commands, seconds = core.wait_commands(question, inference, reply), question.group.window_seconds
            answers = await pool.call_alone(commands, realtime.NUM_ANSWERS, seconds=seconds)
            if is_passing(answers[0]):
                pool.close()
            return realtime.result(answers, earlier)
        except LateError:
            return earlier, "late"
        except BrokenError:
            return earlier, "failed"

    def _servers(self) -> Servers[AsyncPool]:
        if self._known is None:
            raise BrokenError("the store has not been reached yet")
        return self._known

    def _wake(self) -> None:
        if self._core.outbox and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send_all(), name="embeddings-send")

    async def _send_all(self) -> None:
        outbox = self._core.outbox
        while outbox:
            await asyncio.sleep(self._core.options.send_seconds)
            for _ in range(0, len(outbox), TOGETHER):
                if not await self._send():
                    await asyncio.sleep(RETRY_SECONDS)
                    break

    async def _send(self) -> bool:
        """One round trip. False: not everything could be sent."""
        outbox, done = self._core.outbox, True
        if self._known is None:
            return False
        groups = outbox.take(self._known.sends)
        while groups:
            pool, taken = groups.popitem()
            try:
                commands = b"".join([one.command for one in taken])
                answers = await pool.call(commands, len(taken), seconds=BACKGROUND_SECONDS)
            except (LateError, BrokenError) as error:
                outbox.put_back(taken)
                logger.debug("requests wait: %s", error)
                done = False
            except BaseException:
                for left in (taken, *groups.values()):
                    outbox.put_back(left)
                raise
            else:
                if not outbox.sent(taken, answers):
                    pool.close()
                    done = False
        return done

    async def _refresh_all(self) -> None:
        while True:
            await asyncio.sleep(self._core.options.refresh_seconds)
            try:
                await self._refresh()
            except ValueError:
                logger.exception("the store is not this client's")
            except Exception:
                logger.exception("the client does not learn what is served")

    async def _refresh(self) -> None:
        """As `EmbeddingClient._refresh`."""
        core = self._core
        try:
            if self._known is None or core.is_lost:
                self._connect(await asyncio.to_thread(Route.find, self._url, core.keys))
                core.is_lost = False
            pool = self._servers().served
            if not self._knows_layout:
                refresh.learn_layout(core, await pool.call(refresh.layout(core), 2, seconds=BACKGROUND_SECONDS))
                self._knows_layout = True
            asked = time.monotonic()
            answers = await pool.call(refresh.COMMANDS, refresh.NUM_ANSWERS, seconds=BACKGROUND_SECONDS)
            refresh.learn(core, answers, asked=asked)
        except (LateError, BrokenError) as error:
            core.refresh_failed(error)
        await self._probe()

    def _connect(self, route: Route) -> None:
        """As `EmbeddingClient._connect`."""
        earlier, self._known = self._known, Servers.of(route, self._pool, self._known)
        for pool in earlier.left_by(self._known) if earlier is not None else ():
            pool.close()
            self._core.forget(pool.breaker)

    async def _probe(self) -> None:
        """As `EmbeddingClient._probe`."""
        for pool in self._known.all if self._known is not None else ():
            if pool.breaker.is_open:
                try:
                    require_no_error((await pool.call(refresh.PROBE, 1, seconds=self._core.probe_seconds))[0])
                except (LateError, BrokenError) as error:
                    logger.debug("%r does not answer yet: %s", pool.target, error)
                else:
                    pool.breaker.succeeded()
