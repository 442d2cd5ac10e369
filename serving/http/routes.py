"""What each route answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.exceptions import RedisClusterException, RedisError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from serving.http.answers import JSON, encoded
from serving.http.asked import asked_of, checked_models, models_of, require_json, user_id_of
from serving.http.errors import Refusal
from serving.http.kept import kept_of
from serving.http.limits import CLIENT, Limits, read_body
from serving.http.user_page import index_page, user_page

if TYPE_CHECKING:
    from serving.client.asynchronous import AsyncEmbeddingClient
    from serving.client.model import Model
    from serving.http.counts import HttpCounts
    from serving.served import Served
    from serving.store import AsyncStore

STORE_SECONDS = 1.0
"""That pages and `/readyz` wait for the store; embeddings have a deadline of their own, in the client."""
_NO_ANSWER = (RedisError, RedisClusterException, OSError, TimeoutError, ValueError)
"""ValueError: something else than us wrote there."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


class Routes:
    """client: what answers. store: for the pages and the state, which ask what the client does not."""

    def __init__(
        self,
        client: AsyncEmbeddingClient,
        store: AsyncStore,
        *,
        models: Mapping[str, Model],
        limits: Limits,
        registry: CollectorRegistry,
        counts: HttpCounts,
    ) -> None:
        self._client, self._store, self._models = client, store, models
        self._limits, self._registry, self._counts = limits, registry, counts

    async def get_embeddings(self, request: Request) -> Response:
        """A user's embeddings; what is computed after is computed with the features that are known of the user."""
        user = user_id_of(request.path_params["user_id"])
        models = models_of(request.scope, self._models, self._limits.models)
        return await self._answer(request, user, models)

    async def post_embeddings(self, request: Request) -> Response:
        """The same; what is computed after is computed with the features that the request brings."""
        require_json(request.scope)
        asked = asked_of(await read_body(request.receive, self._limits.body_bytes))
        models = checked_models(asked.models, self._models, self._limits.models)
        return await self._answer(
            request, asked.user_id, models, features=asked.features, feature_time=asked.feature_time
        )

    async def _answer(self, request: Request, user: int, models: Sequence[str] | None, **features: Any) -> Response:
        started = time.perf_counter()
        try:
            answers = await self._client.get(user, models, **features)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        self._counts.read(time.perf_counter() - started)
        media_type, body = encoded(request.scope, user, answers.values())
        return Response(body, media_type=media_type, headers={"vary": "accept"})

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return Response(b'{"status":"ok"}', media_type=JSON)

    async def ready(self, request: Request) -> Response:
        """200 while the feature store answers; what is served, null where nothing is yet, for who may know."""
        served = await self._served()
        broken = self._client.statistics()["breaker_open"]
        state = {
            "store": "unreachable" if served is None else "ok",
            "breaker_open": broken,
            "models": {name: (served or {}).get(name) for name in self._models},
        }
        status = 503 if served is None or broken else 200
        if request.scope.get(CLIENT, True) is None:
            return Response(b"{}", status, media_type=JSON)
        return Response(msgspec.json.encode(state), status, media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def index(self, request: Request) -> Response:
        """What is served."""
        return HTMLResponse(index_page(self._models, await self._served()), headers=PAGE_HEADERS)

    async def find_user(self, request: Request) -> Response:
        """From the field of a page to the page of a user."""
        user = user_id_of(request.query_params.get("id", ""))
        return RedirectResponse(f"/users/{user}", 303, headers=PAGE_HEADERS)

    async def user(self, request: Request) -> Response:
        """What is kept of a user. Computes nothing."""
        user = user_id_of(request.path_params["user_id"])
        try:
            async with asyncio.timeout(STORE_SECONDS):
                kept = await kept_of(self._store, self._models, user)
        except _NO_ANSWER:
            raise Refusal(
                503,
                "the feature store does not answer as it should; embeddings are defaults meanwhile",
                {"retry-after": "1"},
            ) from None
        return HTMLResponse(user_page(user, kept), headers=PAGE_HEADERS)

    async def _served(self) -> dict[str, Served] | None:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await self._store.served()
        except _NO_ANSWER:
            return None
