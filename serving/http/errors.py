"""Refusals: JSON that names the value, the rule and the remedy; never where in the code."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

MOST_SHOWN = 80
"""Characters of a value that an error shows."""


class Refusal(Exception):
    """An answer that is an error. headers: by lower-case name."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}

    def response(self) -> Response:
        """`{"error": reason}`. The connection closes: what is left of the request is not read."""
        return Response(
            body_of(self.reason), self.status, {"connection": "close", **self.headers}, media_type="application/json"
        )


FAILED = Refusal(500, "the service failed at this request; its log says why")


def body_of(reason: str) -> bytes:
    """`{"error": reason}`."""
    return msgspec.json.encode({"error": reason})


def shown(value: object) -> str:
    """Of a value that a client sent: printable ASCII, not long."""
    text = ascii(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
