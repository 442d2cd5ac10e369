"""TLS contexts from PEM files, which may be exchanged while the process runs."""

from __future__ import annotations

import logging
import ssl
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the files."""
HANDSHAKE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Tls:
    """What a server shows, and whom it and our clients trust. ca: PEM; None: the system's."""

    certificate: Path
    key: Path
    ca: Path | None = None

    def __post_init__(self) -> None:
        for path in filter(None, (self.certificate, self.key, self.ca)):
            if not path.is_file():
                raise ValueError(f"{path} is no file; `usermodel infra certificates` makes some for development")
        if self.key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            log.warning("others can read the key %s; make it mode 0600, or 0440 of the service's group", self.key)


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and newer; whoever connects need show no certificate.

    A handshake sees the files as they were at most LOOK_SECONDS ago; those that do not fit leave the ones of before.
    ValueError: they do not fit now.
    """
    current = _Current(tls)
    outer = current.make()

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current.context()

    outer.sni_callback = choose
    return outer


def client_context(ca: Path | None) -> ssl.SSLContext:
    """That checks the server's certificate and name. ca: PEM; None: the system's."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def expiry(tls: Tls) -> float:
    """When the certificate ends to count, seconds since the epoch."""
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(tls.certificate.read_bytes()).not_valid_after_utc.timestamp()


class _Current:
    """The context of the files as they are. Safe among threads."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._context = self.make()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def context(self) -> ssl.SSLContext:
        with self._lock:
            if (now := time.monotonic()) >= self._next_look:
                self._next_look = now + LOOK_SECONDS
                self._look()
            return self._context

    def make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self._tls.certificate, self._tls.key)
        except ssl.SSLError as error:
            raise ValueError(f"{self._tls.certificate} and its key are no certificate and key: {error}") from error
        return context

    def _look(self) -> None:
        try:
            if (seen := self._signature()) != self._seen:
                self._context = self.make()
                self._seen = seen
                log.info("certificate read again file=%s", self._tls.certificate)
        except (OSError, ValueError) as error:
            log.error("the certificate of before stays: %s", error)

    def _signature(self) -> list[tuple[int, int]]:
        return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (self._tls.certificate, self._tls.key)]
