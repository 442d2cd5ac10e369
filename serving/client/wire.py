"""One connection to one server, and nothing between a request and its socket but hiredis.

redis-py is for everything else: a read of an embedding has a deadline over all of it, however many packets the answer
comes in, and costs a fraction of redis-py's own time. A connection that was late or failed is closed: what it still
holds is the answer to another question.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hiredis
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url

_BUFFER = 65_536
_WAITS = object()
"""What a reader returns while an answer is incomplete."""


class LateError(Exception):
    """The server did not answer in time."""


class BrokenError(Exception):
    """The server cannot be reached, closed the connection, or refused the login."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a server is. path: of a unix socket, in place of host and port. hello: what a connection begins with."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    hello: tuple[tuple[str, ...], ...] = ()
    context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return self.path or f"{self.host}:{self.port}"

    @staticmethod
    def of(url: str) -> Target:
        """As redis-py reads URLs, `+cluster` aside. ValueError for any other."""
        found: dict[str, Any] = parse_url(url.replace("+cluster://", "://", 1))  # type: ignore[no-untyped-call]
        kind = found.get("connection_class")
        hello: list[tuple[str, ...]] = []
        if password := found.get("password"):
            hello.append(("AUTH", found.get("username") or "default", password))
        if found.get("db"):
            hello.append(("SELECT", str(found["db"])))
        return Target(
            host=found.get("host", "localhost"),
            port=found.get("port", 6379),
            path=found["path"] if kind is UnixDomainSocketConnection else None,
            hello=tuple(hello),
            context=_context(found) if kind is SSLConnection else None,
        )

    def then(self, *commands: tuple[str, ...]) -> Target:
        """Connections begin with these too."""
        return replace(self, hello=(*self.hello, *commands))

    def at(self, host: str, port: int) -> Target:
        """Another node of the same cluster."""
        return replace(self, host=host, port=port)


def _context(found: dict[str, Any]) -> ssl.SSLContext:
    """Verifies the server, by the system's authorities or `ssl_ca_certs`."""
    made = ssl.create_default_context(cafile=found.get("ssl_ca_certs"))
    if certificate := found.get("ssl_certfile"):
        made.load_cert_chain(certificate, found.get("ssl_keyfile"))
    return made


def packed(commands: Iterable[Sequence[Any]]) -> bytes:
    """As they go over the wire, one after the other."""
    return b"".join(hiredis.pack_command(tuple(command)) for command in commands)


def require_no_error(answer: Any) -> None:
    """BrokenError for an error of the server."""
    if isinstance(answer, hiredis.ReplyError):
        raise BrokenError(str(answer))


class Wire:
    """A connection of one caller at a time. Once closed it stays closed."""

    def __init__(self, target: Target, *, deadline: float) -> None:
        """deadline: of `time.monotonic`. LateError, BrokenError."""
        self._reader = hiredis.Reader(notEnoughData=_WAITS)
        self._buffer = bytearray(_BUFFER)
        self._socket: socket.socket | None = None
        try:
            self._socket = _opened(target, deadline)
        except TimeoutError as error:
            raise LateError(f"no connection to {target!r} in time") from error
        except OSError as error:
            raise BrokenError(f"no connection to {target!r}: {error}") from error
        try:
            require_welcome(target, self.call(packed(target.hello), len(target.hello), deadline=deadline))
        except BrokenError:
            self.close()
            raise

    def call(
        self, commands: bytes, num_answers: int, *, deadline: float, meanwhile: Callable[[], object] | None = None
    ) -> list[Any]:
        """Their answers, errors (`hiredis.ReplyError`) among them. LateError, BrokenError: the connection is closed.

        meanwhile: what is done while the server works; the connection is closed when it raises.
        """
        connection, answers = self._socket, list[Any]()
        if connection is None:
            raise BrokenError("the connection was closed")
        try:
            connection.settimeout(_left(deadline))
            connection.sendall(commands)
            if meanwhile is not None:
                meanwhile()
            while len(answers) < num_answers:
                answer = self._reader.gets(False)
                if answer is _WAITS:
                    self._receive(connection, deadline)
                else:
                    answers.append(answer)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise LateError("no answer in time") from error
            if isinstance(error, (OSError, hiredis.ProtocolError)):
                raise BrokenError(str(error)) from error
            raise
        return answers

    def _receive(self, connection: socket.socket, deadline: float) -> None:
        connection.settimeout(_left(deadline))
        size = connection.recv_into(self._buffer)
        if not size:
            raise ConnectionResetError("the server closed the connection")
        self._reader.feed(self._buffer, 0, size)

    def close(self) -> None:
        """For good."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()


def require_welcome(target: Target, answers: Iterable[Any]) -> None:
    """BrokenError where the server refused the hello."""
    for answer in answers:
        if isinstance(answer, hiredis.HiredisError):
            raise BrokenError(f"{target!r} refuses the login: {answer}")


def _opened(target: Target, deadline: float) -> socket.socket:
    if target.path is not None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        made = socket.create_connection((target.host, target.port), timeout=_left(deadline))
    try:
        made.settimeout(_left(deadline))
        if target.path is not None:
            made.connect(target.path)
            return made
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made if target.context is None else target.context.wrap_socket(made, server_hostname=target.host)
    except BaseException:
        made.close()
        raise


def _left(deadline: float) -> float:
    """Seconds. TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
