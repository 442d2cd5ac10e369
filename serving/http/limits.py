"""What every request passes first: whose host it names, how long it is, how many there are and for how long."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.http.errors import FAILED, Refusal, shown

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serving.http.counts import HttpCounts
    from serving.secured.tokens import Client, Tokens

log = logging.getLogger(__name__)

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
ALWAYS_ANSWERED = frozenset({"/healthz", "/metrics"})
"""Also while there are too many requests: what watches the service has to see that."""
FOR_ANYBODY = frozenset({"/healthz", "/readyz"})
"""Where tokens are demanded: whoever asks without one learns the status alone."""
UNKNOWN = Refusal(401, "a token is needed", {"www-authenticate": 'Bearer, Basic realm="usermodel"'})
"""The same for no token, a wrong one and a path that does not exist."""
CLIENT = "usermodel.client"
"""In the scope of a request: whose token it showed. None: nobody's; absent: none is demanded."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one service."""

    hosts: frozenset[str] = LOOPBACK_HOSTS
    """Names that a request may call this service by: a page of another site cannot reach it through a name of its own
    that resolves to loopback (DNS rebinding)."""
    connections: int = 1_000
    pipelined: int = 16
    """Requests of a connection that wait for an answer to an earlier one; it closes when there are more."""
    head_seconds: float = 5.0
    """For a request's URL and headers, once the connection is open or they have begun."""
    head_bytes: int = 16 * 1_024
    url_bytes: int = 4_096
    body_bytes: int = 256 * 1_024
    """A user's most ids (`serving.features.MOST_IDS`) as JSON are 90 KiB."""
    message_bytes: int = 4 * 1_024 * 1_024
    """Of a body as it is sent: in many tiny chunks, or with trailers."""
    models: int = 32
    """Per request."""
    in_flight: int = 256
    seconds: float = 5.0
    """For a request with its body; a read itself has a deadline of its own, far shorter."""


class Guard:
    """An ASGI application around another one; the same JSON errors whatever goes wrong inside."""

    def __init__(self, app: ASGIApp, limits: Limits, counts: HttpCounts, tokens: Tokens | None = None) -> None:
        self._app, self._limits, self._counts, self._tokens = app, limits, counts, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; anything but HTTP (the lifespan) goes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        started = time.perf_counter()
        self._counts.in_flight += 1
        try:
            await self._answer(scope, receive, answer.send)
        except Exception as error:
            if answer.status in (0, FAILED.status):
                refusal = self._refusal(scope, error)
                if not answer.status:
                    await refusal.response()(scope, receive, answer.send)
            else:
                log.debug("the client of %s went away while it was answered: %s", shown(scope["path"]), error)
        finally:
            self._counts.in_flight -= 1
            self._counts.done(scope, answer.status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check(scope)
        async with asyncio.timeout(self._limits.seconds):
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, error: Exception) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, TimeoutError):
            return Refusal(408, f"no answer within {self._limits.seconds:g} s; send the whole body at once")
        log.error("a request of %s failed", shown(scope["path"]), exc_info=error)
        return FAILED

    def _check(self, scope: Scope) -> None:
        limits = self._limits
        length, host, given, head, shows = None, b"", 0, 0, b""
        for name, value in scope["headers"]:
            head += len(name) + len(value)
            if name == b"host":
                host, given = value, given + 1
            elif name == b"content-length":
                length = value
            elif name == b"authorization":
                shows = value
        if given != 1 or _without_port(host) not in limits.hosts:
            known = ", ".join(sorted(limits.hosts))
            raise Refusal(421, f"host {shown(host.decode('latin-1'))} is not served here; served: {known}")
        self._admit(scope, shows)
        if (long := len(scope["raw_path"]) + len(scope["query_string"])) > limits.url_bytes:
            raise Refusal(414, f"a URL of {long} bytes; {limits.url_bytes} is the most: ask with POST")
        if head > limits.head_bytes:
            raise Refusal(431, f"headers of {head} bytes; {limits.head_bytes} is the most: send less")
        if length is not None and int(length) > limits.body_bytes:
            raise Refusal(413, f"a body of {int(length)} bytes; {limits.body_bytes} is the most: send less")
        if self._counts.in_flight > limits.in_flight and scope["path"] not in ALWAYS_ANSWERED:
            raise Refusal(503, f"{limits.in_flight} requests are worked on, the most; come again", {"retry-after": "1"})

    def _admit(self, scope: Scope, shows: bytes) -> None:
        if self._tokens is None:
            return
        client: Client | None = self._tokens.client(shows)
        scope[CLIENT], path = client, scope["path"]
        if path in FOR_ANYBODY:
            return
        if client is None:
            raise UNKNOWN
        if (needed := _scope_of(path)) is not None and needed not in client.scopes:
            raise Refusal(403, "this token does not open this; ask for one that does")


def _scope_of(path: str) -> str | None:
    """None: any."""
    if path.startswith("/v1/"):
        return "embeddings"
    if path == "/metrics":
        return "metrics"
    return None if path == "/openapi.json" else "people"


class _Answer:
    """What goes out, with the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        """Of an answer that has begun."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *HEADERS]
        await self._send(message)


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body, also where its length was not said. Refusal 413 as soon as it is longer than `limit`."""
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the connection closed within the body")
        part = message.get("body", b"")
        parts.append(part)
        total += len(part)
        if total > limit:
            raise Refusal(413, f"a body of more than {limit} bytes, the most: send less")
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _without_port(host: bytes) -> str:
    name, colon, port = host.decode("latin-1").lower().rpartition(":")
    return name if colon and port.isdigit() else host.decode("latin-1").lower()
