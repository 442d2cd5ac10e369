"""The HTTP service over TLS, for who shows a token."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import metrics
from serving.secured.tls import client_context
from tests.serving.http.service import Running, announce, running
from tests.serving.secured.made import certificate, demanding, home, trusting
from tests.serving.servers import redis_server

USER = "/v1/users/700/embeddings?model=demo"


@dataclass(frozen=True, kw_only=True)
class Secure:
    """The service and what its clients show."""

    service: Running
    ca: Path
    shown: dict[str, dict[str, str]]

    def get(self, path: str, client: str = "", **headers: str) -> httpx.Response:
        url = f"https://127.0.0.1:{self.service.port}{path}"
        shows = self.shown.get(client, {}) | headers
        return httpx.get(url, headers=shows, verify=client_context(self.ca), trust_env=False, timeout=20)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secured")
    demands, shown = demanding(home(folder), shop="embeddings", prometheus="metrics", person="people,embeddings")
    assert demands.tls is not None
    assert demands.tls.ca is not None
    with redis_server(folder) as redis, running(redis.url, demands=demands) as service:
        announce(service.store)
        service.write(700, (5, 1_000))
        yield Secure(service=service, ca=demands.tls.ca, shown=shown)


@pytest.mark.parametrize(
    ("path", "client", "status"),
    [
        pytest.param(USER, "shop", 200, id="embeddings"),
        pytest.param(USER, "person", 200, id="embeddings-with-two-scopes"),
        pytest.param(USER, "prometheus", 403, id="embeddings-with-another-scope"),
        pytest.param("/metrics", "prometheus", 200, id="metrics"),
        pytest.param("/metrics", "shop", 403, id="metrics-with-another-scope"),
        pytest.param("/users/700", "person", 200, id="page"),
        pytest.param("/users/700", "shop", 403, id="page-with-another-scope"),
        pytest.param("/openapi.json", "prometheus", 200, id="document"),
        pytest.param("/nope", "person", 404, id="nothing-there"),
        pytest.param("/healthz", "", 200, id="alive-for-anybody"),
        pytest.param("/readyz", "", 200, id="ready-for-anybody"),
    ],
)
def test_a_token_opens_what_its_scopes_say(secure: Secure, path: str, client: str, status: int) -> None:
    assert secure.get(path, client).status_code == status


@pytest.mark.parametrize(
    "path", [USER, "/metrics", "/users/700", "/", "/openapi.json", "/nope", "/v1/users/x/embeddings"]
)
@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc=", "nonsense"])
def test_without_a_token_nothing_is_learnt(secure: Secure, path: str, header: str) -> None:
    answer = secure.get(path, **({"Authorization": header} if header else {}))
    assert (answer.status_code, answer.text) == (401, '{"error":"a token is needed"}')
    assert answer.headers["www-authenticate"] == 'Bearer, Basic realm="usermodel"'
    assert "server" not in answer.headers


def test_what_is_served_is_told_to_who_may_know(secure: Secure) -> None:
    assert secure.get("/readyz").text == "{}"
    assert secure.get("/readyz", "prometheus").json()["models"]["demo"]["version"] == 5


def test_the_certificate_is_among_the_metrics(secure: Secure) -> None:
    text = secure.get("/metrics", "prometheus").text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    (ends,) = (one.value for one in samples if one.name == metrics.CERTIFICATE.name)
    assert ends == pytest.approx(time.time() + 86_400, abs=600)


def test_plaintext_another_authority_and_a_stranger_name_are_refused(secure: Secure, tmp_path: Path) -> None:
    port = secure.service.port
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
    other = trusting(certificate(home(tmp_path)))
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"https://127.0.0.1:{port}/healthz", verify=other, trust_env=False)
    refused = secure.get(USER, "shop", Host="evil.example")
    assert refused.status_code == 421


def test_old_protocols_are_refused(secure: Secure) -> None:
    context = client_context(secure.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", secure.service.port)) as one:
        context.wrap_socket(one, server_hostname="127.0.0.1")


def test_who_shakes_no_hand_holds_up_nobody(secure: Secure) -> None:
    silent = [socket.create_connection(("127.0.0.1", secure.service.port), timeout=20) for _ in range(20)]
    began = time.monotonic()
    assert secure.get("/healthz").status_code == 200
    for one in silent:
        assert one.recv(1) == b"", "the handshake has a deadline"
        one.close()
    assert time.monotonic() - began < 15
