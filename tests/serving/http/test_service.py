"""The service as a whole: its state, its limits under load, its store gone, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from infra.settings import REPOSITORY, child_environment
from serving.http.limits import Limits
from tests.serving.http.service import Running, announce, running, wait_until
from tests.serving.servers import redis_server


def test_the_state(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    answer = http.get("/readyz")
    assert answer.status_code == 200
    state = answer.json()
    assert (state["store"], state["breaker_open"]) == ("ok", False)
    assert {name: one["version"] for name, one in state["models"].items()} == {"demo": 5, "daily": 5}


def test_every_answer_has_the_headers(http: httpx.Client) -> None:
    for path in ("/", "/users/1", "/healthz", "/metrics", "/v1/users/1/embeddings", "/nope"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == "no-store", path
        assert "server" not in headers, path


def test_without_its_store_it_answers_defaults_and_says_so(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, running(redis.url) as service:
        announce(service.store)
        service.write(1, (5, 1_000))
        with httpx.Client(base_url=service.url, timeout=20) as http:
            assert not http.get("/v1/users/1/embeddings").json()["embeddings"]["demo"]["default"]
            redis.process.send_signal(signal.SIGSTOP)
            try:
                started = time.monotonic()
                demo = http.get("/v1/users/1/embeddings").json()["embeddings"]["demo"]
                assert time.monotonic() - started < 5
                assert (demo["default"], demo["reason"]) == (True, "late")
                ready, page = http.get("/readyz"), http.get("/users/1")
                assert (ready.status_code, ready.json()["store"]) == (503, "unreachable")
                assert (page.status_code, page.headers["retry-after"]) == (503, "1")
                assert http.get("/healthz").status_code == 200
                assert "cannot be reached" in http.get("/").text
            finally:
                redis.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + 30
            while http.get("/v1/users/1/embeddings").json()["embeddings"]["demo"]["default"]:
                assert time.monotonic() < deadline, "the service did not find its store again"
                time.sleep(0.05)
            assert http.get("/readyz").status_code == 200


def test_too_many_requests_at_once_are_refused_and_health_is_not(tmp_path: Path) -> None:
    begun = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    limits = Limits(in_flight=2, connections=6, seconds=20)
    with redis_server(tmp_path) as redis, running(redis.url, limits) as service:
        held = [socket.create_connection(("127.0.0.1", service.port), timeout=20) for _ in range(2)]
        for connection in held:
            connection.sendall(begun + b"content-length: 16\r\n\r\n")
        with httpx.Client(base_url=service.url, timeout=20) as http:
            deadline = time.monotonic() + 10
            while (refused := http.get("/v1/users/1/embeddings")).status_code == 200:
                assert time.monotonic() < deadline
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "2 requests" in refused.json()["error"]
            assert http.get("/healthz").status_code == 200
            assert "usermodel_http_in_flight 3.0" in http.get("/metrics").text
        for connection in held:
            connection.sendall(b'{"user_id": 123}')
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        others = [socket.create_connection(("127.0.0.1", service.port), timeout=20) for _ in range(6)]
        answers = [connection.recv(65_536) for connection in others[-2:]]
        assert all(answer.startswith(b"HTTP/1.1 503") and b"6 connections" in answer for answer in answers)
        for connection in (*held, *others):
            connection.close()


def test_many_at_once_are_all_answered(service: Running) -> None:
    service.write(700, (5, 1_000))

    def ask(number: int) -> int:
        with httpx.Client(base_url=service.url, timeout=20) as http:
            found = [http.get(f"/v1/users/{700 + number % 2}/embeddings").json() for _ in range(10)]
        assert [one["embeddings"]["demo"]["default"] for one in found] == [number % 2 == 1] * 10
        return len(found)

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(16))) == 160


def test_the_command_ends_its_requests_when_it_is_told_to(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        environment = child_environment(USERMODEL_HOME=str(tmp_path), USERMODEL_REDIS_URL=redis.url)
        command = [sys.executable, "-m", "infra.commands", "serving", "http", "--model", "demo", "--port", str(port)]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None)
            with socket.create_connection(("127.0.0.1", port), timeout=20) as begun:
                head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                begun.sendall(head + b"content-length: 15\r\nexpect: 100-continue\r\n\r\n")
                assert begun.recv(65_536).startswith(b"HTTP/1.1 100")  # it is under way
                process.send_signal(signal.SIGTERM)
                wait_until(lambda: not _listens(port))
                begun.sendall(b'{"user_id": 42}')
                assert begun.recv(65_536).startswith(b"HTTP/1.1 200")
            assert process.wait(20) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()
        assert b"Traceback" not in (tmp_path / "log").read_bytes()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
