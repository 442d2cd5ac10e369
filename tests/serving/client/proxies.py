"""A network between a client and its store that can be made slow: what faults look like from the client's side."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Slow:
    """Answers of the store reach the client so late. url: of the proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seconds = 0.0
        """Before each packet of an answer."""
        self.bytes_at_once = 65_536
        """Of an answer; fewer: it drips."""


@contextmanager
def slow_network(url: str) -> Iterator[Slow]:
    """To the store at `redis://host:port`."""
    host, _, port = url.rpartition("/")[2].rpartition(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as store:
                asking = threading.Thread(target=_copy, args=(self.request, store, None), daemon=True)
                asking.start()
                _copy(store, self.request, slow)
                asking.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        slow = Slow(f"redis://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield slow
        finally:
            server.shutdown()
            thread.join()


def _copy(source: socket.socket, target: socket.socket, slow: Slow | None) -> None:
    try:
        while data := source.recv(65_536 if slow is None else slow.bytes_at_once):
            if slow is not None and slow.seconds:
                time.sleep(slow.seconds)
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
