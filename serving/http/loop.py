"""uvloop, with a bound on the time that a TLS handshake may take; uvicorn has no setting for it."""

from __future__ import annotations

from typing import Any

import uvloop

from serving.secured.tls import HANDSHAKE_SECONDS


class Loop(uvloop.Loop):
    """One event loop."""

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As of uvloop. A connection counts among `Limits.connections` once its handshake is done."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*args, **kwargs)
