"""A real MLflow server in a process of its own, which loses requests or answers from a chosen moment on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx

from infra.settings import LOOPBACK, REPOSITORY, child_environment

Loss = Literal["request", "answer"]
"""What the client does not get through: what it asks, or what it would be told when that is done."""
_CONTROL = "/-/"
_QUIET_SECONDS = 120.0


class Line:
    """The way to the server, as scenarios cut it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def cut(self, at: int, *, loses: Loss) -> None:
        """From the request number `at` on (from 0, the probe of /health counts), nothing gets through."""
        self._ask(f"cut/{at}/{loses}")

    def heal(self) -> int:
        """Up again; how many requests there were since it was healed or cut."""
        return int(self._ask("heal"))

    def _ask(self, what: str) -> str:
        return httpx.get(f"{self.uri}{_CONTROL}{what}", timeout=_QUIET_SECONDS).text


@contextmanager
def flaky_server(store: Path, artifacts: Path) -> Iterator[Line]:
    """MLflow's own application over the database `store`. In the block clients do not retry by themselves."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

    told = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{store}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.tracking"],
        cwd=REPOSITORY, env=child_environment(**told), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    kept = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get_raw()
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, "the server did not start"
        yield Line(f"http://{LOOPBACK}:{port}")
    finally:
        if kept is None:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()
        else:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(kept)
        server.terminate()
        server.communicate(timeout=30)


class _State:
    """Of the server's process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_requests = 0
        self._cut: tuple[int, str] | None = None

    def control(self, what: str) -> str:
        with self._lock:
            num, self._num_requests, self._cut = self._num_requests, 0, None
            if what.startswith("cut/"):
                _, at, loses = what.split("/")
                self._cut = (int(at), loses)
        return str(num)

    def admit(self) -> tuple[bool, bool]:
        """(whether the server hears the request, whether the client hears the answer)."""
        with self._lock:
            number, self._num_requests = self._num_requests, self._num_requests + 1
            cut = self._cut
        if cut is None or number < cut[0]:
            return True, True
        return number == cut[0] and cut[1] == "answer", False


def serve() -> None:
    """Print the port, then serve until terminated."""
    from mlflow.server import app
    from werkzeug.serving import WSGIRequestHandler, make_server

    state = _State()

    class Handler(WSGIRequestHandler):
        def run_wsgi(self) -> None:
            if self.path.startswith(_CONTROL):
                self._answer(state.control(self.path.removeprefix(_CONTROL)))
                return
            heard, answered = state.admit()
            if heard and answered:
                super().run_wsgi()
                return
            if heard:
                with Path(os.devnull).open("wb") as nowhere:
                    there, self.wfile = self.wfile, nowhere
                    super().run_wsgi()
                    self.wfile = there
            self.close_connection = True

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log(self, *_: Any) -> None:
            """Nothing."""

    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
