"""What the service answers, and what it leaves for the compute center."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import httpx
import msgspec
import numpy as np
import pytest
from fastapi import Request
from prometheus_client import CollectorRegistry

from serving.client.asynchronous import AsyncEmbeddingClient
from serving.connection import connect_async
from serving.http.answers import Answered
from serving.http.counts import HttpCounts
from serving.http.errors import Refusal
from serving.http.limits import Limits
from serving.http.routes import Routes
from serving.store import AsyncStore
from tests.serving.client.clients import DEMO, with_policy
from tests.serving.http.service import Running, wait_until

NOW_MS = int(1000 * time.time())


def test_the_mean_of_what_earlier_requests_computed(service: Running, http: httpx.Client) -> None:
    service.write(1, (4, NOW_MS - 9_000), (5, NOW_MS - 5_000), (5, NOW_MS - 1_250))
    answer = http.get("/v1/users/1/embeddings", params={"model": "demo"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = msgspec.json.decode(answer.content, type=Answered)
    assert (found.user_id, list(found.embeddings)) == (1, ["demo"])
    demo = found.embeddings["demo"]
    assert demo.vectors == [[float(np.float16(14 / 3))] * 8] * 2
    assert (demo.default, demo.origin, demo.reason, demo.computation) == (False, "store", "found", "queued")
    assert [one.version for one in demo.pooled] == [5, 5, 4]
    assert [round(1000 * one.feature_time.timestamp()) - NOW_MS for one in demo.pooled] == [-1_250, -5_000, -9_000]
    assert all(0 <= one.age_seconds < 60 for one in demo.pooled)


def test_a_cold_user_gets_the_default_marked_so(http: httpx.Client) -> None:
    found = msgspec.json.decode(http.get("/v1/users/2/embeddings").content, type=Answered).embeddings
    assert {name: (one.vectors, one.default, one.reason, one.computation) for name, one in found.items()} == {
        "demo": ([[0.0] * 8] * 2, True, "cold", "queued"),
        "daily": ([[0.0] * 4], True, "cold", "off"),
    }


def test_messagepack_has_the_same_with_float16(service: Running, http: httpx.Client) -> None:
    service.write(3, (5, NOW_MS - 1_000))
    packed = http.get("/v1/users/3/embeddings?model=demo", headers={"accept": "application/msgpack"})
    assert packed.headers["content-type"] == "application/msgpack"
    assert packed.headers["vary"] == "accept"
    one = msgspec.msgpack.decode(packed.content)["embeddings"]["demo"]
    plain = http.get("/v1/users/3/embeddings?model=demo").json()["embeddings"]["demo"]
    vectors = np.frombuffer(one["vectors"], "<f2").reshape(one["num_embeddings"], one["dim"])
    assert vectors.tolist() == plain["vectors"]
    assert {**one, "vectors": 0, "pooled": 0} == {**plain, "vectors": 0, "pooled": 0}


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        pytest.param({"features": {"clicked": [3, 5], "visits": 2}}, b"\x03", id="features"),
        pytest.param({"features": {"clicked": [3]}, "feature_time": "2026-01-05T12:00:00.250Z"}, b"\x03", id="time"),
    ],
)
def test_features_are_left_for_the_compute_center(
    service: Running, http: httpx.Client, body: dict[str, object], payload: bytes
) -> None:
    user = 40 + len(body)
    answer = http.post("/v1/embeddings", json={"user_id": user, "models": ["demo"], **body})
    assert answer.json()["embeddings"]["demo"]["computation"] == "queued"
    key = service.store.keys.features("shop", user)
    wait_until(lambda: service.store.redis.exists(key))
    kept = service.store.redis.get(key)
    assert isinstance(kept, bytes)
    assert payload in kept
    if "feature_time" in body:
        assert int.from_bytes(kept[:8], "little") == 1_767_614_400_250
    waiting = service.store.redis.xrange(service.store.keys.requests("shop", 0))
    assert str(user).encode() in [fields[b"u"] for _, fields in waiting]  # type: ignore[union-attr]


def test_every_model_is_answered_once_in_the_order_asked_for(http: httpx.Client) -> None:
    answer = http.get("/v1/users/5/embeddings?model=daily&model=demo&model=daily")
    assert list(answer.json()["embeddings"]) == ["daily", "demo"]
    posted = http.post("/v1/embeddings", json={"user_id": 5})
    assert list(posted.json()["embeddings"]) == ["demo", "daily"]


def test_the_largest_id(http: httpx.Client) -> None:
    largest = 2**63 - 1
    assert http.get(f"/v1/users/{largest}/embeddings").json()["user_id"] == largest
    assert http.post("/v1/embeddings", json={"user_id": largest}).json()["user_id"] == largest


def test_openapi_describes_what_is_answered(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert sorted(document["paths"]) == [
        "/healthz", "/metrics", "/readyz", "/v1/embeddings", "/v1/users/{user_id}/embeddings"
    ]  # fmt: skip
    schemas = document["components"]["schemas"]
    assert set(schemas["Embeddings"]["required"]) == set(
        http.get("/v1/users/2/embeddings").json()["embeddings"]["demo"]
    )
    assert "262144 bytes" in document["info"]["description"]
    for schema in ("Asked", "Embeddings", "Pooled"):
        for name, field in schemas[schema]["properties"].items():
            assert "description" in field, f"{schema}.{name}"


def test_models_that_cannot_be_asked_for_together_are_the_callers_mistake() -> None:
    models = {one.name: one for one in (replace(DEMO, name="other", source="t"), with_policy(mode="realtime"))}
    url, registry = "redis://127.0.0.1:1", CollectorRegistry()
    store = AsyncStore(connect_async(url, timeout_seconds=1.0))
    routes = Routes(
        AsyncEmbeddingClient(url, list(models.values())), store,
        models=models, limits=Limits(), registry=registry, counts=HttpCounts(registry),
    )  # fmt: skip
    request = Request({"type": "http", "path_params": {"user_id": "7"}, "query_string": b"", "headers": []})
    with pytest.raises(Refusal, match="several sources"):
        asyncio.run(routes.get_embeddings(request))
