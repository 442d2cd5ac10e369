"""The client for threads: an answer at once, everything else behind it."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from serving.client import realtime, refresh
from serving.client.answer import Answer, Computation, Reason
from serving.client.core import Core, Draft
from serving.client.model import Model
from serving.client.options import BACKGROUND_SECONDS, RETRY_SECONDS, Options
from serving.client.outbox import TOGETHER, drained, is_passing
from serving.client.pool import Pool
from serving.client.question import Inference, Question
from serving.client.route import Route, Servers
from serving.client.wire import BrokenError, LateError, Target, require_no_error

logger = logging.getLogger(__name__)

_DEFAULT = Options()


class EmbeddingClient:
    """Of the user models of one store. Thread-safe; not to be taken over a fork.

    get() takes `deadline_ms` at most (in real-time mode `window_ms` more) and never fails for the store's sake: the
    answer says what was missing. Closing sends what is still to be sent.
    """

    def __init__(self, url: str, models: Sequence[Model], options: Options = _DEFAULT) -> None:
        """url: as `serving.connection` reads it. ValueError: the store has another number of partitions."""
        self._core = Core(models, options)
        self._url, self._knows_layout = url, False
        self._known: Servers[Pool] | None = None
        self._nonce, self._count = secrets.token_hex(8), itertools.count()
        self._closing, self._work = threading.Event(), threading.Event()
        try:
            self._refresh()
        except ValueError:
            self._disconnect()
            raise
        self._threads = [
            threading.Thread(target=run, name=f"embeddings-{run.__name__.strip('_')}", daemon=True)
            for run in (self._send_all, self._refresh_all)
        ]
        for thread in self._threads:
            thread.start()

    def get(
        self,
        user: int,
        models: Sequence[str] | None = None,
        *,
        features: Mapping[str, Any] | None = None,
        feature_time: datetime | None = None,
    ) -> dict[str, Answer]:
        """The embeddings of `models` (None: of all), by name.

        features: of the user, by name, what the inference that follows is of; None: those that the store knows.
        feature_time: of the features; None: now. ValueError for a request that is none.
        """
        core = self._core
        question = core.question(user, models)
        draft = Draft(core, question, features, feature_time)
        values = self._read(question, draft)
        inference, found = draft(), core.found(question, values)
        if core.waits(question, found) and not isinstance(values, str):
            values, computation = self._wait(question, inference, values)
            return core.answers(question, inference, core.found(question, values), waited=computation)
        answers = core.answers(question, inference, found)
        if not self._work.is_set() and core.outbox:
            self._work.set()
        return answers

    def statistics(self) -> dict[str, Any]:
        """`serving.statistics.Statistics.snapshot`, and what is waiting."""
        return self._core.snapshot()

    def flush(self, *, timeout_seconds: float = 5.0) -> bool:
        """Wait until everything is sent. False: it was not."""
        return drained(lambda: self._core.outbox.is_empty, self._work.set, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """Send what waits, as far as the store takes it within a second, and stop."""
        if not self._closing.is_set():
            if not self.flush(timeout_seconds=1.0):
                logger.warning("%d requests for inference were not sent", len(self._core.outbox))
            self._closing.set()
            self._work.set()
            for thread in self._threads:
                thread.join()
            self._disconnect()

    def __enter__(self) -> EmbeddingClient:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _pool(self, target: Target) -> Pool:
        return Pool(target, self._core.new_breaker())

    def _disconnect(self) -> None:
        for pool in self._known.all if self._known is not None else ():
            pool.close()

    def _read(self, question: Question, draft: Draft) -> Sequence[Any] | Reason:
        core, now = self._core, time.monotonic()
        if self._known is None:
            return core.read_failed(BrokenError("the store has not been reached yet"))
        pool = self._known.reads[question.partition]
        if not pool.breaker.allows(now):
            return core.not_tried()
        try:
            (values,) = pool.call(question.read, 1, deadline=now + question.group.deadline_seconds, meanwhile=draft)
            require_no_error(values)
        except (LateError, BrokenError) as error:
            pool.breaker.failed(time.monotonic())
            core.is_lost |= pool.breaker.is_open
            return core.read_failed(error)
        pool.breaker.succeeded()
        return values  # type: ignore[no-any-return]

    def _wait(
        self, question: Question, inference: Inference, earlier: Sequence[Any]
    ) -> tuple[Sequence[Any], Computation]:
        """The records after the request's own inference, and what became of it: the earlier ones if it failed."""
        core = self._core
        reply = core.keys.reply(question.user, f"{self._nonce}{next(self._count)}")
        deadline = time.monotonic() + question.group.window_seconds
        try:
            pool = self._servers().sends[question.partition]
            answers = pool.call(core.wait_commands(question, inference, reply), realtime.NUM_ANSWERS, deadline=deadline)
            if is_passing(answers[0]):
                pool.close()
            return realtime.result(answers, earlier)
        except LateError:
            return earlier, "late"
        except BrokenError:
            return earlier, "failed"

    def _servers(self) -> Servers[Pool]:
        if self._known is None:
            raise BrokenError("the store has not been reached yet")
        return self._known

    def _send_all(self) -> None:
        """Looks again soon after it has sent something, so that those who read seldom need to wake it."""
        outbox = self._core.outbox
        while not self._closing.is_set():
            time.sleep(self._core.options.send_seconds)
            if not outbox:
                self._work.clear()
                if not outbox and not self._closing.is_set():
                    self._work.wait()
            for _ in range(0, len(outbox), TOGETHER):
                if not self._send():
                    self._closing.wait(RETRY_SECONDS)
                    break

    def _send(self) -> bool:
        """One round trip. False: not everything could be sent."""
        outbox, deadline = self._core.outbox, time.monotonic() + BACKGROUND_SECONDS
        if self._known is None:
            return False
        done = True
        for pool, taken in outbox.take(self._known.sends).items():
            try:
                answers = pool.call(b"".join([one.command for one in taken]), len(taken), deadline=deadline)
            except (LateError, BrokenError) as error:
                outbox.put_back(taken)
                logger.debug("requests wait: %s", error)
                done = False
            else:
                if not outbox.sent(taken, answers):
                    pool.close()
                    done = False
        return done

    def _refresh_all(self) -> None:
        while not self._closing.wait(self._core.options.refresh_seconds):
            try:
                self._refresh()
            except ValueError:
                logger.exception("the store is not this client's")
            except Exception:
                logger.exception("the client does not learn what is served")

    def _refresh(self) -> None:
        """Learn what the store says; nothing where it says nothing. ValueError: it is another layout's."""
        core = self._core
        try:
            if self._known is None or core.is_lost:
                self._connect(Route.find(self._url, core.keys))
                core.is_lost = False
            pool, asked = self._servers().served, time.monotonic()
            deadline = asked + BACKGROUND_SECONDS
            if not self._knows_layout:
                refresh.learn_layout(core, pool.call(refresh.layout(core), 2, deadline=deadline))
                self._knows_layout, asked = True, time.monotonic()
            refresh.learn(core, pool.call(refresh.COMMANDS, refresh.NUM_ANSWERS, deadline=deadline), asked=asked)
        except (LateError, BrokenError) as error:
            core.refresh_failed(error)
        self._probe()

    def _connect(self, route: Route) -> None:
        """To the servers of `route`, and to no others."""
        earlier, self._known = self._known, Servers.of(route, self._pool, self._known)
        for pool in earlier.left_by(self._known) if earlier is not None else ():
            pool.close()
            self._core.forget(pool.breaker)

    def _probe(self) -> None:
        """Let the servers be read again that answer in time again."""
        for pool in self._known.all if self._known is not None else ():
            if pool.breaker.is_open:
                try:
                    deadline = time.monotonic() + self._core.probe_seconds
                    require_no_error(pool.call(refresh.PROBE, 1, deadline=deadline)[0])
                except (LateError, BrokenError) as error:
                    logger.debug("%r does not answer yet: %s", pool.target, error)
                else:
                    pool.breaker.succeeded()
