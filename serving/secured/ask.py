"""How our own processes ask a service that may demand TLS and a token."""

from __future__ import annotations

import ssl
from typing import Any

from infra.settings import Settings
from serving.secured.tls import client_context


def scheme(settings: Settings) -> str:
    """Of our own services."""
    return "http" if settings.tls_certificate is None else "https"


def headers(settings: Settings) -> dict[str, str]:
    """With the token that this process shows, read now: it may have been exchanged."""
    if settings.token_file is None:
        return {}
    return {"Authorization": f"Bearer {settings.token_file.read_text(encoding='utf-8').strip()}"}


def trusted(settings: Settings) -> ssl.SSLContext | bool:
    """For httpx, `verify`: the settings' authority, or those that it knows itself."""
    return True if settings.tls_ca is None else client_context(settings.tls_ca)


def options(settings: Settings) -> dict[str, Any]:
    """For httpx. Proxies of the environment are not for our own services."""
    return {"headers": headers(settings), "verify": trusted(settings), "trust_env": False}
