"""The containers' health check, against a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.deployment.probe import wrong


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = {
            "/well": (200, b'{"scheduler": {"status": "healthy"}, "triggerer": {"status": null}}'),
            "/text": (200, b"ok"),
        }.get(self.path, (503, b"{}"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "expected", "words"),
    [
        pytest.param("/well", (), None, id="it answers"),
        pytest.param("/well", ("scheduler.status=healthy",), None, id="as it should"),
        pytest.param("/well", ("triggerer.status=healthy",), "triggerer.status is None", id="a part is not well"),
        pytest.param("/well", ("worker.status=healthy",), "worker.status is None", id="a part is not there"),
        pytest.param("/text", ("scheduler.status=healthy",), "/text", id="no JSON"),
        pytest.param("/ill", (), "503", id="it says that it is not well"),
    ],
)
def test_what_is_wrong(address: str, path: str, expected: tuple[str, ...], words: str | None) -> None:
    found = wrong(address + path, expected)
    assert (found is None) if words is None else (found is not None and words in found)


def test_nobody_answers() -> None:
    assert "refused" in (wrong("http://127.0.0.1:1/healthz") or "")
