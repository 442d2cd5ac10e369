"""The loop's metrics of Airflow: which schedulers and edge workers are alive, asked of a server that answers by TLS."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.credentials import airflow_passwords_file, ensure_credentials, private_folder
from infra.loop_metrics.collect import collect
from infra.settings import LOOPBACK, Settings
from serving.secured.tls import server_context
from tests.serving.secured.made import certificate, home, tls_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def worker(name: str, state: str) -> dict[str, Any]:
    return {"worker_name": name, "state": state, "queues": ["gpu"], "jobs_active": 0, "last_heartbeat": None}


@contextmanager
def airflow(folder: Path, alive: int | None, workers: list[dict[str, Any]]) -> Iterator[Settings]:
    """Of an installation whose Airflow knows this. alive None: it refuses every question."""
    made = home(folder)
    issued, password = certificate(made), ensure_credentials(made).airflow_password

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
            path, _, query = self.path.partition("?")
            known = body.get("password") == password or self.headers.get("Authorization") == "Bearer t"
            answer: dict[str, Any] = {
                "/auth/token": {"access_token": "t"},
                "/api/v2/jobs": {"jobs": [{}] * (alive or 0), "total_entries": 7},
                "/edge_worker/ui/worker": {"workers": workers},
            }[path]
            assert path != "/api/v2/jobs" or {"job_type=SchedulerJob", "is_alive=true"} <= set(query.split("&"))
            text = json.dumps(answer).encode()
            self.send_response(200 if known and alive is not None else 401)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.socket = server_context(tls_of(issued)).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        uri = f"https://{LOOPBACK}:{server.server_port}"
        yield made.model_copy(update={"airflow_uri": uri, "tls_ca": issued.ca, "schedulers": 2})
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page(settings: Settings) -> dict[str, float]:
    """By the last words of the name, and the label's value where there is one."""
    return {
        " ".join([sample.name.removeprefix("usermodel_loop_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(collect([], settings=settings, now=NOW).decode())
        for sample in family.samples
    }


BOTH = [worker("gpu-1", "idle"), worker("gpu-2", "unknown"), worker("gpu-3", "offline")]


@pytest.mark.parametrize(
    ("alive", "edge_steps", "expected"),
    [
        pytest.param(2, "", {"up airflow": 1, "schedulers_alive": 2, "schedulers_wanted": 2}, id="all-is-well"),
        pytest.param(0, "", {"up airflow": 1, "schedulers_alive": 0, "schedulers_wanted": 2}, id="none-is-left"),
        pytest.param(
            1,
            "train=gpu",
            {
                "up airflow": 1,
                "schedulers_alive": 1,
                "schedulers_wanted": 2,
                "edge_worker_lost gpu-1": 0,
                "edge_worker_lost gpu-2": 1,
                "edge_worker_lost gpu-3": 0,
            },
            id="a-scheduler-and-a-worker-are-lost",
        ),
        pytest.param(None, "train=gpu", {"up airflow": 0}, id="it-refuses"),
    ],
)
def test_what_airflow_hears_of(tmp_path: Path, alive: int | None, edge_steps: str, expected: dict[str, float]) -> None:
    with airflow(tmp_path, alive, BOTH) as settings:
        found = page(settings.model_copy(update={"edge_steps": edge_steps}))
    wanted = ("up airflow", "schedulers", "edge_worker")
    assert {name: value for name, value in found.items() if name.startswith(wanted)} == expected


def test_without_its_password_airflow_is_not_asked(tmp_path: Path) -> None:
    found = page(home(tmp_path).model_copy(update={"airflow_uri": "https://far"}))
    assert "up airflow" not in found
    assert found["up registry"] == 1
    assert not (tmp_path / "credentials").exists(), "nor is one made"


@pytest.mark.parametrize(
    "text",
    [pytest.param("", id="empty"), pytest.param("[]", id="a list"), pytest.param('{"other": "p"}', id="another's")],
)
def test_passwords_that_cannot_be_read_hide_no_other_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    settings = home(tmp_path)
    kept = airflow_passwords_file(settings)
    private_folder(kept.parent)
    kept.write_text(text)
    found = page(settings)
    assert (found["up airflow"], found["up registry"]) == (0, 1)
    assert f"{kept} has no password of admin; write" in caplog.text
    assert kept.read_text() == text, "nor is it made anew"
