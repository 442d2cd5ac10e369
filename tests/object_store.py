"""An S3 server for tests: moto's, in a process of its own on loopback, behind what moto lacks.

moto checks a condition (If-None-Match, If-Match) and writes in two steps that threads can interleave: here writes take
turns. It looks at no signature: here a wrong key, a wrong signature and a clock that is off are refused as S3 does.
Faults on order: see `Fault`. `python -m tests.object_store PORT` serves until it is ended.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, quote

import httpx
import pytest

from infra.settings import REPOSITORY, get_settings
from tests.serving.servers import free_port

BUCKET = "lake"
KEY_ID, SECRET = "AKIDTESTS", "a-secret-of-tests"
_SKEW_SECONDS = 900
_START_SECONDS = 300
_CONTROL = "/_control"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What becomes of the next `times` requests of `method` (empty: any) whose path matches `path`."""

    method: str = ""
    path: str = ""
    times: int = 1
    skip: int = 0
    """So many of them pass first."""
    delay_seconds: float = 0.0
    """Before anything else."""
    status: int = 0
    """Answered so (0: as always), with `code`: 503 SlowDown, 500 InternalError …"""
    code: str = "SlowDown"
    cut: bool = False
    """The connection ends without the answer; what was asked for is done."""


@dataclass(frozen=True, kw_only=True)
class ObjectServer:
    """A running server with one empty bucket."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """With it a process reaches the server."""
        return {
            "USERMODEL_STORAGE_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        """This process and its children reach the server; `settings` by their names in the environment."""
        for name, value in (self.environment | settings).items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    def fail(self, *faults: Fault) -> None:
        """From the next request on; none: no more faults."""
        httpx.put(self.endpoint + _CONTROL, json=[asdict(fault) for fault in faults]).raise_for_status()

    def requests(self) -> list[str]:
        """`METHOD /path?query` of those since the last call."""
        return list(httpx.get(self.endpoint + _CONTROL).raise_for_status().json())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It answers nothing (SIGSTOP); connections are accepted by the kernel."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def impatient(seconds: float = 4.0) -> Iterator[None]:
    """In the block a request is repeated for so long, by this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USERMODEL_STORAGE_SECONDS", str(seconds))
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server with an empty bucket."""
    port = free_port()
    command = [sys.executable, "-m", "tests.object_store", str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    try:
        _wait(process, f"http://127.0.0.1:{port}{_CONTROL}")
        yield ObjectServer(port=port, process=process)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no S3 server at {url}; is moto[server] installed?") from None
            time.sleep(0.05)


Environ = dict[str, Any]
Respond = Callable[..., Any]


class _Served:
    """The WSGI application around moto's."""

    def __init__(self, moto: Callable[[Environ, Respond], Iterable[bytes]]) -> None:
        self._moto = moto
        self._writes = threading.Lock()
        self._state = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._seen: list[str] = []

    def __call__(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == _CONTROL:
            return self._control(environ["REQUEST_METHOD"], body, respond)
        fault = self._fault(environ)
        time.sleep(fault.get("delay_seconds", 0))
        if refused := _refusal(environ) or ((fault["status"], fault["code"]) if fault.get("status") else None):
            status, code = refused
            text = f"<Error><Code>{code}</Code><Message>for a test</Message></Error>".encode()
            respond(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
            return [text]
        answer = self._answer(environ | {"wsgi.input": BytesIO(body)}, respond)
        if fault.get("cut"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer

    def _answer(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._moto(environ, respond)
        with self._writes:
            return list(self._moto(environ, respond))

    def _control(self, method: str, body: bytes, respond: Respond) -> Iterable[bytes]:
        with self._state:
            if method == "PUT":
                self._faults = json.loads(body)
            text = json.dumps(self._seen).encode()
            self._seen = []
        respond("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
        return [text]

    def _fault(self, environ: Environ) -> Mapping[str, Any]:
        method, path = environ["REQUEST_METHOD"], environ["RAW_URI"]
        with self._state:
            self._seen.append(f"{method} {path}")
            for fault in self._faults:
                if fault["times"] and fault["method"] in ("", method) and re.search(fault["path"], path):
                    due = not fault["skip"]
                    fault["times" if due else "skip"] -= 1
                    return fault if due else {}
        return {}


def _refusal(environ: Environ) -> tuple[int, str] | None:
    """Status and code for a request that S3 would not take."""
    given = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d+/[\w-]+/s3/aws4_request), ?SignedHeaders=([^,]+), ?Signature=(\w+)",
        environ.get("HTTP_AUTHORIZATION", ""),
    )
    if given is None:
        return 403, "AccessDenied"
    key, scope, names, signature = given.groups()
    if key != KEY_ID:
        return 403, "InvalidAccessKeyId"
    date = environ["HTTP_X_AMZ_DATE"]
    signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs((datetime.now(UTC) - signed_at).total_seconds()) > _SKEW_SECONDS:
        return 403, "RequestTimeTooSkewed"
    request = hashlib.sha256(_canonical(environ, names).encode()).hexdigest()
    text, secret = "\n".join(["AWS4-HMAC-SHA256", date, scope, request]), f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), text):
        secret = hmac.digest(secret, part.encode(), "sha256")
    return None if hmac.compare_digest(secret.hex(), signature) else (403, "SignatureDoesNotMatch")


def _canonical(environ: Environ, names: str) -> str:
    """The request as its signature covers it (AWS Signature Version 4)."""
    path, _, query = environ["RAW_URI"].partition("?")
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True))

    def value(name: str) -> str:
        key = name.upper().replace("-", "_")
        found = environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}", "")
        return " ".join(str(found).split())

    headers = "".join(f"{name}:{value(name)}\n" for name in names.split(";"))
    asked = "&".join(f"{k}={v}" for k, v in pairs)
    return "\n".join([environ["REQUEST_METHOD"], path, asked, headers, names, environ["HTTP_X_AMZ_CONTENT_SHA256"]])


def main(port: int) -> None:
    """Serve on loopback until ended; one bucket, empty."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import run_simple

    s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
    served = _Served(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, served, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
