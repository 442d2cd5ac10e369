"""Clients by their tokens. The file holds SHA-256 digests: who reads it can ask for nothing.

A line per client, `NAME SCOPE,SCOPE SHA-256`; `#` begins a comment. A client with two lines has two tokens: so a token
is exchanged without a pause. A token has 256 random bits, hence no salt and no slow hash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

log = logging.getLogger(__name__)

Scope = Literal["embeddings", "people", "metrics"]
"""embeddings: /v1. people: the pages. metrics: /metrics, and the state in words."""
TOKEN_BYTES = 32
MOST_BYTES = 1_024
"""Of an Authorization header."""
LOOK_SECONDS = 1.0
"""Between two looks at the file."""
_LINE = re.compile(r"(?P<name>\w[\w.-]{0,63})\s+(?P<scopes>[a-z,]+)\s+(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who may ask for what."""

    name: str
    scopes: frozenset[str]
    sha256: bytes

    def line(self) -> str:
        """Of the file."""
        return f"{self.name} {','.join(sorted(self.scopes))} {self.sha256.hex()}"


def make_client(name: str, scopes: frozenset[str]) -> tuple[Client, str]:
    """A client and its token, which is kept nowhere else. ValueError: such a name or scope cannot be."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    client = Client(name=name, scopes=scopes, sha256=hashlib.sha256(token.encode()).digest())
    (checked,) = parse(client.line(), "the new client")
    return checked, token


def parse(text: str, where: str) -> tuple[Client, ...]:
    """The clients. ValueError names the line, never what stands in it."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (plain := line.partition("#")[0].strip()):
            continue
        match = _LINE.fullmatch(plain)
        scopes = frozenset(match["scopes"].split(",")) if match else frozenset()
        if match is None or not scopes <= set(get_args(Scope)):
            raise ValueError(
                f"{where}, line {number}: not `NAME SCOPE,SCOPE SHA-256` with scopes of {', '.join(get_args(Scope))}; "
                "make it with `usermodel infra token`"
            )
        found.append(Client(name=match["name"], scopes=scopes, sha256=bytes.fromhex(match["sha256"])))
    return tuple(found)


class Tokens:
    """Of a file that may change: it is read again within LOOK_SECONDS. A file that cannot be read, or is wrong, is
    logged and leaves those of before. Safe among threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _signature(path)
        self._clients = parse(path.read_text(encoding="utf-8"), str(path))
        self._next_look = time.monotonic() + LOOK_SECONDS

    def client(self, authorization: bytes) -> Client | None:
        """Of a header `Bearer TOKEN`, or `Basic` with the token as password; None for anybody else. Takes as long for a
        token that is nearly right as for any other."""
        self._look()
        digest = hashlib.sha256(_token_of(authorization)).digest()
        found = None
        for client in self._clients:  # all of them, whichever it is
            if hmac.compare_digest(client.sha256, digest):
                found = client
        return found

    def _look(self) -> None:
        if (now := time.monotonic()) < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        try:
            if (seen := _signature(self._path)) != self._seen:
                self._clients = parse(self._path.read_text(encoding="utf-8"), str(self._path))
                self._seen = seen
                log.info("tokens read again file=%s clients=%d", self._path, len(self._clients))
        except (OSError, ValueError) as error:
            log.error("tokens of before stay: %s", error)


def _token_of(authorization: bytes) -> bytes:
    kind, _, given = authorization[:MOST_BYTES].partition(b" ")
    if kind.lower() == b"bearer":
        return given.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _signature(path: Path) -> tuple[int, int, int]:
    """Another one when the file was written, or exchanged (a mounted secret is a link that is exchanged)."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
