"""uvicorn's connection, bounded: a request's head and whole in bytes, the head in time, connections in number.

httptools itself takes a head of any length, sent at any pace, and so does uvicorn.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.errors import body_of
from serving.http.limits import Limits


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """The protocol with these limits."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection. The bounds in bytes are exceeded by what the loop reads at once, 256 KiB, at most."""

    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._turned, self._received = True, False, 0
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A request is expected now, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"{self.limits.connections} connections are open, the most; come again in a second")
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._stop_expecting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it, then see whether the request that is not complete yet has become too long."""
        if self.transport.is_closing():
            return
        self._turned = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._received = 0 if self._turned else self._received + len(data)
        limit, status = (self.limits.head_bytes, 431) if self._in_head else (self.limits.message_bytes, 413)
        if self._received > limit:
            self._refuse(status, f"more than {limit} bytes of one request; send less")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()

    def on_message_begin(self) -> None:
        """Of the parser."""
        super().on_message_begin()
        self._turned = True

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if len(self.pipeline) >= self.limits.pipelined:
            self._close()
            raise ValueError("too many requests at once on a connection")  # stops the parser, which knows more of them
        self._stop_expecting()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Of the parser."""
        super().on_message_complete()
        self._in_head = self._turned = True

    def send_400_response(self, msg: str) -> None:
        """Of uvicorn: what httptools cannot parse."""
        self._refuse(400, f"{msg} Send HTTP/1.1 with an absolute path")

    def _expect(self) -> None:
        self._timer = self.loop.call_later(self.limits.head_seconds, self._too_slow)

    def _stop_expecting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._refuse(408, f"no whole request within {self.limits.head_seconds:g} s; send it at once")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, and close; the rest of what was sent is not read."""
        body = body_of(reason)
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"retry-after: 1\r\n" if status == 503 else b"",
            b"connection: close\r\n\r\n",
        ]
        if not self.transport.is_closing():
            self.transport.write(b"".join([*head, body]))
            self._close()

    def _close(self) -> None:
        """An answer that is under way is for nobody."""
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
