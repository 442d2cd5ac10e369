"""A page for Prometheus with a port of its own, over TLS and for who shows a token where that is demanded.

A thread per connection, as many as MOST at a time; a connection that says nothing ends after SECONDS, and any, however
busy, after MOST_SECONDS.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self

from serving.metrics import CERTIFICATE
from serving.secured.listen import OPEN, Secured
from serving.secured.tls import expiry, server_context

log = logging.getLogger(__name__)

PATH, ALIVE = "/metrics", "/healthz"
TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS, MOST_SECONDS = 5.0, 10.0
MOST = 16
UNKNOWN = b'{"error":"a token is needed; see infra/security/threat-model.md"}'


class Page(ThreadingHTTPServer):
    """`text` at /metrics; /healthz says that the process lives, to anybody. Serves in a thread from `start` on.

    port 0: any that is free, see `server_port`. OSError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, text: Callable[[], bytes], *, host: str, port: int, demands: Secured = OPEN) -> None:
        self.text, self.demands = text, demands
        self._context = None if demands.tls is None else server_context(demands.tls)
        self._free = threading.BoundedSemaphore(MOST)
        super().__init__((host, port), _Handler)

    def start(self) -> Self:
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()
        return self

    def stop(self) -> None:
        """Answer no more; the port is free."""
        self.shutdown()
        self.server_close()

    def server_bind(self) -> None:
        """Without the base's question to DNS for our own name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread of its own; beyond MOST it is closed at once."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake is here, so that a slow one holds up nobody else."""
        held: list[socket.socket] = [request]
        cut = threading.Timer(MOST_SECONDS, _cut, (held,))
        cut.start()
        try:
            request.settimeout(SECONDS)
            if self._context is not None:
                held[0] = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                held[0].do_handshake()  # type: ignore[attr-defined]
            super().process_request_thread(held[0], client_address)
        except OSError as error:  # no TLS, or none that fits: nobody of ours
            log.debug("a connection to the metrics ended: %s", error)
            self.shutdown_request(held[0])
        finally:
            cut.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a client does is no error of ours."""
        log.debug("a client of the metrics went away", exc_info=True)


def _cut(held: list[socket.socket]) -> None:
    """End the connection, whatever it is at; TLS is asked nothing."""
    with suppress(OSError):
        socket.socket.shutdown(held[0], socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = SECONDS
    server: Page
    server_version, sys_version = "usermodel", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == ALIVE:
            self._answer(200, b"ok\n", TYPE)
        elif not self._known():
            self._answer(401, UNKNOWN, "application/json", ("WWW-Authenticate", "Bearer"))
        elif path == PATH:
            self._answer(200, self.server.text() + self._expiry(), TYPE)
        else:
            self._answer(404, b'{"error":"the metrics are at /metrics"}', "application/json")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request can hold a secret, and there is one every ten seconds."""

    def _expiry(self) -> bytes:
        if (tls := self.server.demands.tls) is None:
            return b""
        name, meaning = CERTIFICATE.name, CERTIFICATE.meaning
        return f"# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {expiry(tls)}\n".encode()

    def _known(self) -> bool:
        tokens = self.server.demands.tokens
        if tokens is None:
            return True
        client = tokens.client(self.headers.get("Authorization", "").encode("latin-1", "replace"))
        return client is not None and "metrics" in client.scopes

    def _answer(self, status: int, body: bytes, kind: str, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
