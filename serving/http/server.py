"""The process: uvicorn with our bounds, which ends its requests before it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvicorn

from serving.client.asynchronous import AsyncEmbeddingClient
from serving.client.model import Model
from serving.client.options import Options
from serving.connection import connect_async
from serving.http.app import application
from serving.http.limits import Limits
from serving.http.protocol import bounded
from serving.http.routes import STORE_SECONDS
from serving.keys import Keys
from serving.secured.listen import OPEN, Secured
from serving.secured.tls import Tls, server_context
from serving.store import AsyncStore
from trainer.recipes import get_recipe

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_SECONDS = 10
"""That requests under way have when the process is told to end."""


def serve(
    recipes: Sequence[str],
    *,
    store_url: str,
    partitions: int,
    host: str,
    port: int,
    limits: Limits,
    demands: Secured = OPEN,
) -> None:
    """Serve these user models until SIGTERM or SIGINT. ValueError for a recipe that is not known, or a wrong URL."""
    models = [Model.of(get_recipe(name)) for name in recipes]
    app = service(models, store_url=store_url, partitions=partitions, limits=limits, demands=demands)
    server_of(app, host=host, port=port, limits=limits, tls=demands.tls).run()


def service(
    models: Sequence[Model], *, store_url: str, partitions: int, limits: Limits, demands: Secured = OPEN
) -> ASGIApp:
    """The application over a store of its own connections."""
    client = AsyncEmbeddingClient(store_url, models, Options(partitions=partitions))
    store = AsyncStore(connect_async(store_url, timeout_seconds=STORE_SECONDS), Keys(partitions))
    return application(client, store, {model.name: model for model in models}, limits, demands)


def server_of(app: ASGIApp, *, host: str, port: int, limits: Limits, tls: Tls | None = None) -> uvicorn.Server:
    """`run()` serves until a signal says otherwise, or `should_exit` is set."""
    context = None if tls is None else server_context(tls)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=bounded(limits),
            loop="serving.http.loop:Loop",
            ssl_context_factory=None if context is None else lambda _config, _default: context,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
