"""The service as an ASGI application: its routes, inside its limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serving.exposition import ClientCollector
from serving.http.counts import HttpCounts
from serving.http.errors import FAILED, Refusal, shown
from serving.http.limits import Guard, Limits
from serving.http.openapi import GET_EMBEDDINGS, POST_EMBEDDINGS, document
from serving.http.routes import Routes
from serving.metrics import CERTIFICATE
from serving.secured.listen import OPEN, Secured
from serving.secured.tls import expiry

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from serving.client.asynchronous import AsyncEmbeddingClient
    from serving.client.model import Model
    from serving.store import AsyncStore


class PlainRoute(APIRoute):
    """Of a function of the request that returns the response: there is nothing to solve or to validate before it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Of FastAPI."""
        return self.endpoint


def application(
    client: AsyncEmbeddingClient,
    store: AsyncStore,
    models: Mapping[str, Model],
    limits: Limits,
    demands: Secured = OPEN,
) -> ASGIApp:
    """The service over a client of these models, which it opens when it starts and closes when it ends. store: the
    client's, for what the client is not asked. demands: of who asks."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield
        await store.redis.aclose()

    registry = CollectorRegistry()
    registry.register(ClientCollector(client.statistics, models))
    if (tls := demands.tls) is not None:
        CERTIFICATE.gauge(registry).set_function(lambda: expiry(tls))
    counts = HttpCounts(registry)
    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={Refusal: _refused, HTTPException: _not_routed, Exception: _failed},
    )
    app.router.route_class = PlainRoute
    app.openapi = lambda: document(app, limits)  # type: ignore[method-assign]
    _route(app, Routes(client, store, models=models, limits=limits, registry=registry, counts=counts))
    return Guard(app, limits, counts, demands.tokens)


def _route(app: FastAPI, routes: Routes) -> None:
    embeddings = "/v1/users/{user_id}/embeddings"
    app.add_api_route(embeddings, routes.get_embeddings, response_model=None, openapi_extra=GET_EMBEDDINGS)
    app.add_api_route(
        "/v1/embeddings", routes.post_embeddings, methods=["POST"], response_model=None, openapi_extra=POST_EMBEDDINGS
    )
    for path, endpoint in {"/healthz": routes.live, "/readyz": routes.ready, "/metrics": routes.metrics}.items():
        app.add_api_route(path, endpoint, response_model=None)
    for path, endpoint in {"/": routes.index, "/users": routes.find_user, "/users/{user_id}": routes.user}.items():
        app.add_api_route(path, endpoint, response_model=None, include_in_schema=False)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_routed(request: Request, error: Exception) -> Response:
    """Routing's own errors."""
    assert isinstance(error, HTTPException)
    path = shown(request.scope["path"])
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        return Refusal(
            405, f"method {shown(request.method)} at {path}; allowed: {allowed}", {"allow": allowed}
        ).response()
    return Refusal(error.status_code, f"nothing is at {path}; see /openapi.json").response()


async def _failed(request: Request, error: Exception) -> Response:
    """The error itself goes on to the guard, which logs it."""
    return FAILED.response()
