"""As much of Kubernetes' API, over HTTP, as a job needs: Volcano jobs, their pods, a log. It schedules nothing."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_JOBS = re.compile(r"/apis/batch\.volcano\.sh/v1alpha1/namespaces/training/jobs(?:/([^/]+))?")
_PODS = re.compile(r"/api/v1/namespaces/training/pods(?:/([^/]+)/log)?")


@dataclass
class Cluster:
    """What the API says; a test changes it."""

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    log_queries: list[dict[str, list[str]]] = field(default_factory=list)
    """How the log was asked for, each time."""
    silent_seconds: float = 0
    """Before every answer."""
    refused: int = 0
    """Answer everything with this status; 0: do not."""


@contextmanager
def serve() -> Iterator[Cluster]:
    """An API server on loopback for the block."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            selected = dict([query["labelSelector"][0].split("=")]) if "labelSelector" in query else {}
            if found := _JOBS.fullmatch(path):
                if found[1]:
                    self._answer(cluster.jobs.get(found[1]))
                else:
                    self._answer({"items": [job for job in cluster.jobs.values() if _has(job, selected)]})
            elif found := _PODS.fullmatch(path):
                if found[1]:
                    cluster.log_queries.append(query)
                    self._answer(cluster.log)
                else:
                    self._answer({"items": [pod for pod in cluster.pods if _has(pod, selected)]})

        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = job["metadata"]["name"]
            if name in cluster.jobs:
                self._answer({"reason": "AlreadyExists"}, status=409)
            else:
                cluster.jobs[name] = job
                self._answer(job, status=201)

        def do_DELETE(self) -> None:
            found = _JOBS.fullmatch(urlsplit(self.path).path)
            self._answer(cluster.jobs.pop(found[1], None) if found else None)

        def _answer(self, content: dict[str, Any] | str | None, *, status: int = 200) -> None:
            time.sleep(cluster.silent_seconds)
            body = content.encode() if isinstance(content, str) else json.dumps(content or {}).encode()
            self.send_response(cluster.refused or (404 if content is None else status))
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(body)))
            with suppress(BrokenPipeError):  # who asked is gone
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _has(thing: dict[str, Any], labels: dict[str, str]) -> bool:
    return labels.items() <= thing["metadata"].get("labels", {}).items()
