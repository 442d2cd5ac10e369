"""What a process demands of whoever connects, by where it listens."""

from __future__ import annotations

from dataclasses import dataclass

from infra.settings import Settings, is_loopback
from serving.secured.tls import Tls
from serving.secured.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Secured:
    """None: not demanded."""

    tls: Tls | None = None
    tokens: Tokens | None = None


OPEN = Secured()
"""Of loopback, where nothing is set."""


def tls_of(settings: Settings) -> Tls | None:
    """The settings' certificate; None where none is set. ValueError: half of it is."""
    if settings.tls_certificate is None and settings.tls_key is None:
        return None
    if settings.tls_certificate is None or settings.tls_key is None:
        raise ValueError("a certificate needs its key: set USERMODEL_TLS_CERTIFICATE and USERMODEL_TLS_KEY, or neither")
    return Tls(certificate=settings.tls_certificate, key=settings.tls_key, ca=settings.tls_ca)


def secured(host: str, settings: Settings) -> Secured:
    """For HTTP. ValueError: `host` is beyond loopback, and TLS or tokens are missing."""
    found = Secured(
        tls=tls_of(settings), tokens=None if settings.tokens_file is None else Tokens(settings.tokens_file)
    )  # fmt: skip
    if not is_loopback(host):
        _require_tls(host, found.tls, settings)
        if found.tokens is None:
            raise ValueError(
                f"{host} is beyond loopback, where whoever asks must show a token: set USERMODEL_TOKENS_FILE "
                "(`usermodel infra token` makes one), or listen on 127.0.0.1"
            )
    return found


def mutual(host: str, settings: Settings) -> Tls | None:
    """For Arrow Flight, where both sides show certificates of one authority. ValueError as of `secured`."""
    tls = tls_of(settings)
    if not is_loopback(host):
        _require_tls(host, tls, settings)
    if tls is not None and tls.ca is None:
        raise ValueError(
            "shards and workers know each other by certificates of one authority: set USERMODEL_TLS_CA beside "
            "USERMODEL_TLS_CERTIFICATE"
        )
    return tls


def _require_tls(host: str, tls: Tls | None, settings: Settings) -> None:
    if tls is None and settings.tls == "required":
        raise ValueError(
            f"{host} is beyond loopback, where connections are encrypted: set USERMODEL_TLS_CERTIFICATE and "
            "USERMODEL_TLS_KEY (`usermodel infra certificates` makes some for development), or listen on 127.0.0.1, "
            "or set USERMODEL_TLS=elsewhere where a mesh or a proxy encrypts"
        )
