"""TLS of Arrow Flight: both sides show a certificate, and trust one authority alone. Read when the process starts."""

from __future__ import annotations

from typing import Any

from serving.secured.tls import Tls


def server_side(tls: Tls) -> dict[str, Any]:
    """Options of a Flight server."""
    return {
        "tls_certificates": [(tls.certificate.read_bytes(), tls.key.read_bytes())],
        "verify_client": True,
        "root_certificates": _authority(tls),
    }


def client_side(tls: Tls) -> dict[str, Any]:
    """Options of a Flight client."""
    shown = {"cert_chain": tls.certificate.read_bytes(), "private_key": tls.key.read_bytes()}
    return {"tls_root_certs": _authority(tls), **shown}


def _authority(tls: Tls) -> bytes:
    assert tls.ca is not None, "serving.secured.listen.mutual demands one"
    return tls.ca.read_bytes()
