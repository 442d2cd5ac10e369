"""No read ever waits for inference: the compute center is frozen in the middle of its work, its stream runs full."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from infra.settings import REPOSITORY, child_environment
from serving.store import Store
from tests.serving.client.clients import FEATURES, PATIENT_MS, Client, Kind, client_of, with_policy, write
from tests.serving.client.test_clients import eventually
from tests.serving.servers import Server

MODEL = with_policy()
READS, USERS, LONGEST = 100, 50, 20
SLACK_MS = 2.0


@contextmanager
def compute_center(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """A process."""
    command = [sys.executable, "-m", "tests.serving.client.consumer", server.url]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=child_environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def milliseconds(client: Client) -> list[float]:
    """Of reads, each with features; every one is answered with what was computed before."""
    found = []
    for number in range(READS):
        started = time.perf_counter()
        answer = client.get(number % USERS, features=FEATURES)["demo"]
        found.append(1000 * (time.perf_counter() - started))
        assert (answer.origin, answer.computation) == ("store", "queued")
    return found


def test_a_frozen_compute_center_changes_no_read(kind: Kind, server: Server, store: Store) -> None:
    for user in range(USERS):
        write(store, user, 3)
    working, frozen = list[float](), list[float]()
    with compute_center(server) as center, client_of(kind, server.url, MODEL, longest_stream=LONGEST) as client:
        eventually(lambda: client.get(0, features=FEATURES)["demo"].versions == (4, 3))
        milliseconds(client)
        for _ in range(3):
            working += milliseconds(client)
            center.send_signal(signal.SIGSTOP)
            frozen += milliseconds(client)
            assert client.flush()
            assert store.redis.xlen(store.keys.requests("s", 0)) == LONGEST
            center.send_signal(signal.SIGCONT)
            eventually(lambda: store.redis.xlen(store.keys.requests("s", 0)) == 0)
        found = client.statistics()
        eventually(lambda: client.get(0, features=FEATURES)["demo"].versions == (4, 3))
    quantiles = (0.5, 0.9)
    while_working, while_frozen = (np.quantile(times, quantiles) for times in (working, frozen))
    print(f"ms at {quantiles}: working {while_working.round(3)}, frozen {while_frozen.round(3)}")
    assert (while_frozen < 2 * while_working + SLACK_MS).all()
    assert max(frozen) < PATIENT_MS
    assert found["events"].keys() <= {"refreshes_failed"}  # no read was late, or failed
    assert found["models"]["demo"]["computations"]["shed"] > 0
