"""Certificates and tokens for tests, made by the commands' own functions."""

from __future__ import annotations

import ssl
from pathlib import Path

from infra.certificates import Issued, issue
from infra.settings import Settings
from infra.tokens import give
from serving.secured.listen import Secured
from serving.secured.tls import Tls, client_context
from serving.secured.tokens import Tokens


def home(path: Path) -> Settings:
    return Settings(home=path, _env_file=None)


def certificate(settings: Settings, name: str = "services", *, hosts: tuple[str, ...] = ("127.0.0.1",)) -> Issued:
    return issue(settings, name, hosts=hosts, days=1)


def tls_of(issued: Issued) -> Tls:
    return Tls(certificate=issued.certificate, key=issued.key, ca=issued.ca)


def trusting(issued: Issued) -> ssl.SSLContext:
    return client_context(issued.ca)


def demanding(settings: Settings, **clients: str) -> tuple[Secured, dict[str, dict[str, str]]]:
    """TLS, and a token per client with these scopes (separated by commas); by client, the header that it shows."""
    shown = {}
    for name, scopes in clients.items():
        kept, file = give(settings, name, frozenset(scopes.split(",")))
        shown[name] = {"Authorization": f"Bearer {file.read_text().strip()}"}
    return Secured(tls=tls_of(certificate(settings)), tokens=Tokens(kept)), shown
