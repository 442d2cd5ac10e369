"""Which hosts of a job still answer, so that a rank that waits can tell a cut-off host from one that is busy.

Every rank of a job over several hosts keeps a port open at which nothing is ever said: the kernel completes the
connection, whatever the process does, so that it answers as long as the host is up and reachable. A thread lets go of
those who asked, for the kernel keeps but so many and then says nothing. It costs nothing until somebody asks.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

_AGAIN_SECONDS = 0.1
_PATIENCE_SECONDS = 3.0
"""Long enough for three attempts of TCP, where packets are lost."""
_TCP_RTO_MAX_MS = 44
"""Of linux/tcp.h; Python has no name for it."""
_LONGEST_PAUSE_MS = 1000


class Answer(Enum):
    """Of a rank's port."""

    HERE = "answers"
    GONE = "refuses"
    """The host is there; the process is not."""
    SILENT = "silent"
    """Nothing comes back: the host is down, or cut off from this one."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank runs."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"

    def ask(self, *, seconds: float = _PATIENCE_SECONDS) -> Answer:
        """Whether it can be reached from here, now."""
        try:
            socket.create_connection((self.address, self.port), timeout=seconds).close()
        except ConnectionRefusedError:
            return Answer.GONE
        except OSError:
            return Answer.SILENT
        return Answer.HERE


@dataclass(frozen=True, kw_only=True)
class Door:
    """This rank's port, open until the process ends."""

    place: Place
    _listening: socket.socket = field(repr=False)

    @classmethod
    def open(cls, address: str) -> Door:
        """On that address of this host, at a free port."""
        listening = socket.create_server((address, 0))
        port = listening.getsockname()[1]
        threading.Thread(target=_let_go, args=(listening,), name="door", daemon=True).start()
        return cls(place=Place(host=socket.gethostname(), address=address, port=port), _listening=listening)

    def close(self) -> None:
        """Answer no more."""
        with suppress(OSError):  # not every system wakes the thread
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def _let_go(listening: socket.socket) -> None:
    """Of everybody who asks, until it is closed. An asker who is gone, or want of descriptors, passes."""
    while True:
        try:
            listening.accept()[0].close()
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):  # closed, or shut down
                return
            time.sleep(_AGAIN_SECONDS)


def address_towards(host: str) -> str:
    """This host's address on the way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def retry_often(connection: socket.socket) -> None:
    """Let TCP try again every second where nothing is acknowledged; by itself it doubles the pauses, and after an
    outage says nothing for as long again. Linux 6.15 and later; nothing changes on others."""
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _LONGEST_PAUSE_MS)


def ask_all(places: Iterable[Place]) -> list[Answer]:
    """All at once, in their order; within `_PATIENCE_SECONDS`."""
    asked = list(places)
    with ThreadPoolExecutor(max_workers=max(len(asked), 1)) as pool:
        return list(pool.map(Place.ask, asked))
