"""What services show and ask for beyond loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from infra.settings.base import Home


class Protection(Home):
    """TLS and tokens."""

    tls: Literal["required", "elsewhere"] = Field(
        "required", description="beyond loopback: our own TLS, or elsewhere: a mesh or proxy encrypts what we do not"
    )
    tls_certificate: Path | None = Field(None, description="PEM of the certificate that our services show, with chain")
    tls_key: Path | None = Field(None, description="PEM of its key, mode 0600")
    tls_ca: Path | None = Field(None, description="PEM of whom our services and clients trust; default: the system's")
    tokens_file: Path | None = Field(
        None,
        description="who may ask our services: a line per client, NAME SCOPE,SCOPE SHA-256; read again when it changes",
    )
    token_file: Path | None = Field(None, description="the token that this process shows to other services, mode 0600")
