"""The page for Prometheus over real connections."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from infra.settings import LOOPBACK
from serving.secured import page as module
from serving.secured.page import Page
from serving.secured.tls import client_context
from tests.serving.secured.made import certificate, demanding, home, trusting


@pytest.fixture
def open_page() -> Iterator[Page]:
    page = Page(lambda: b"up 1\n", host=LOOPBACK, port=0).start()
    yield page
    page.stop()


def asked(page: Page, path: str = "/metrics", **how: object) -> httpx.Response:
    scheme = "http" if page.demands.tls is None else "https"
    return httpx.get(f"{scheme}://127.0.0.1:{page.server_port}{path}", trust_env=False, timeout=20, **how)  # type: ignore[arg-type]


def test_on_loopback_anybody_reads_it(open_page: Page) -> None:
    answer = asked(open_page)
    assert (answer.status_code, answer.text) == (200, "up 1\n")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert asked(open_page, "/nope").status_code == 404
    assert asked(open_page, "/healthz").text == "ok\n"


def test_over_tls_for_who_shows_a_token(tmp_path: Path) -> None:
    demands, shown = demanding(home(tmp_path), prometheus="metrics", shop="embeddings")
    assert demands.tls is not None
    page = Page(lambda: b"up 1\n", host=LOOPBACK, port=0, demands=demands).start()
    verify = client_context(demands.tls.ca)
    try:
        found = asked(page, headers=shown["prometheus"], verify=verify)
        assert found.status_code == 200
        assert found.text.startswith("up 1\n# HELP usermodel_tls_certificate_expiry_timestamp_seconds")
        assert float(found.text.split()[-1]) == pytest.approx(time.time() + 86_400, abs=600)
        refused = [asked(page, path, headers=headers, verify=verify) for path, headers in (
            ("/metrics", {}), ("/metrics", shown["shop"]), ("/metrics", {"Authorization": "Bearer x"}), ("/nope", {}),
        )]  # fmt: skip
        assert {(one.status_code, one.text, one.headers["www-authenticate"]) for one in refused} == {
            (401, '{"error":"a token is needed; see infra/security/threat-model.md"}', "Bearer")
        }
        assert asked(page, "/healthz", verify=verify).status_code == 200
        with pytest.raises(httpx.ConnectError, match=r"self-signed|unable to get local issuer"):
            asked(page, headers=shown["prometheus"])
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{page.server_port}/metrics", headers=shown["prometheus"], trust_env=False)
    finally:
        page.stop()


def test_another_authority_and_another_name_are_refused(tmp_path: Path) -> None:
    demands, _ = demanding(home(tmp_path), prometheus="metrics")
    page = Page(lambda: b"", host=LOOPBACK, port=0, demands=demands).start()
    other = certificate(home(tmp_path / "other"))
    try:
        with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection((LOOPBACK, page.server_port)) as one:
            trusting(other).wrap_socket(one, server_hostname=LOOPBACK)
        assert demands.tls is not None
        named = pytest.raises(ssl.SSLCertVerificationError, match="localhost")
        with named, socket.create_connection((LOOPBACK, page.server_port)) as one:
            client_context(demands.tls.ca).wrap_socket(one, server_hostname="localhost")
        old = client_context(demands.tls.ca)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        raw = socket.create_connection((LOOPBACK, page.server_port))
        with old.wrap_socket(raw, server_hostname=LOOPBACK) as encrypted:
            assert encrypted.version() == "TLSv1.2"
    finally:
        page.stop()


def test_who_says_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "SECONDS", 0.5)
    monkeypatch.setattr(module, "MOST_SECONDS", 1.0)
    monkeypatch.setattr(module._Handler, "timeout", 0.5)
    page = Page(lambda: b"up 1\n", host=LOOPBACK, port=0).start()
    try:
        silent = [socket.create_connection((LOOPBACK, page.server_port)) for _ in range(2)]
        assert asked(page).status_code == 200, "a thread is left"
        with closing(socket.create_connection((LOOPBACK, page.server_port), timeout=10)) as slow:
            began = time.monotonic()
            with suppress(OSError):
                while time.monotonic() - began < 8:
                    slow.sendall(b"G")
                    time.sleep(0.1)
            assert time.monotonic() - began < 6, "a drip ends too"
        for one in silent:
            assert one.recv(1) == b""
            one.close()
        assert asked(page).status_code == 200
    finally:
        page.stop()
