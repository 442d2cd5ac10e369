"""Certificates that are exchanged while a server runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from infra.certificates import folder_of, issue
from infra.settings import LOOPBACK
from serving.secured import tls as module
from serving.secured.listen import Secured
from serving.secured.page import Page
from serving.secured.tls import client_context, expiry, server_context
from tests.serving.secured.made import certificate, home, tls_of


def shown_by(port: int, ca: Path) -> int:
    """The serial number of the certificate that a server on loopback shows."""
    import socket

    from cryptography.x509 import load_der_x509_certificate

    context = client_context(ca)
    with socket.create_connection((LOOPBACK, port)) as one, context.wrap_socket(one, server_hostname=LOOPBACK) as tls:
        raw = tls.getpeercert(binary_form=True)
    assert raw is not None
    return load_der_x509_certificate(raw).serial_number


def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    settings = home(tmp_path)
    issued = certificate(settings)
    page = Page(lambda: b"", host=LOOPBACK, port=0, demands=Secured(tls=tls_of(issued))).start()
    try:
        first = shown_by(page.server_port, issued.ca)
        certificate(settings)
        second = shown_by(page.server_port, issued.ca)
        assert first != second
        issued.key.write_text("nonsense")
        assert shown_by(page.server_port, issued.ca) == second, "what does not fit leaves the one of before"
    finally:
        page.stop()


def test_a_key_of_another_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    issued, other = certificate(home(tmp_path)), certificate(home(tmp_path), "other")
    with pytest.raises(ValueError, match="no certificate and key"):
        server_context(module.Tls(certificate=issued.certificate, key=other.key))


def test_files_are_private_and_the_authority_stays(tmp_path: Path) -> None:
    settings = home(tmp_path)
    issued = certificate(settings)
    authority = issued.ca.read_bytes()
    assert certificate(settings, "other", hosts=("shard-0.example", "10.0.0.7")).ca.read_bytes() == authority
    folder = folder_of(settings)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in folder.iterdir()} == {0o600}
    assert expiry(tls_of(issued)) > 0
    assert ssl.create_default_context(cafile=str(issued.ca)).get_ca_certs()


@pytest.mark.parametrize(
    ("name", "hosts", "days"),
    [("../x", ("h",), 1), ("ca", ("h",), 1), ("x", (), 1), ("x", ("h",), 0)],
    ids=["a-path", "the-authority", "no-host", "no-day"],
)
def test_no_such_certificate_is_made(tmp_path: Path, name: str, hosts: tuple[str, ...], days: int) -> None:
    with pytest.raises(ValueError, match="give a name of letters"):
        issue(home(tmp_path), name, hosts=hosts, days=days)
