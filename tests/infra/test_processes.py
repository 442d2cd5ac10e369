from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from infra import processes
from infra.settings import LOOPBACK, child_environment

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server


def test_a_port_in_use_names_its_holder(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not processes.port_is_free(LOOPBACK, port)
    assert f"pid {os.getpid()} (" in (processes.port_holder(port) or "")


def test_a_closed_port_is_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert processes.port_is_free(LOOPBACK, port)
    assert processes.port_holder(port) is None


@pytest.mark.parametrize(
    ("family", "address"),
    [
        pytest.param(socket.AF_INET, "127.0.0.1", id="loopback"),
        pytest.param(socket.AF_INET, "0.0.0.0", id="every-interface"),  # noqa: S104
        pytest.param(
            socket.AF_INET6,
            "::1",
            id="loopback-6",
            marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6"),
        ),
    ],
)
def test_listeners_are_seen_with_their_address(family: socket.AddressFamily, address: str) -> None:
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError as error:
        pytest.skip(f"cannot listen on {address}: {error}")
    with server:
        seen = {(host, port) for host, port, _ in processes.listening([os.getpid()])}
        assert (address, server.getsockname()[1]) in seen


def test_processes_are_found_by_their_environment_and_ended() -> None:
    mark = f"USERMODEL_TEST_MARK={os.getpid()}"
    name, value = mark.split("=")
    env = child_environment(**{name: value})
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], env=env, stdout=subprocess.PIPE, start_new_session=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert processes.with_environment(mark) == {child.pid}
        assert processes.with_environment(mark[:-1]) == set()
        ended = processes.end(lambda: processes.with_environment(mark), grace_seconds=0.3)
        assert ended == {child.pid}
        assert not processes.is_alive(child.pid)
