"""A store for the tests of the clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.served import Served
from serving.store import Store
from tests.serving.client.clients import DEMO, KINDS, Kind
from tests.serving.servers import Server, redis_server

SERVED = Served(model="demo", source="s", version=3, ds="2026-01-03", num_embeddings=2, dim=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of a module."""
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    """Emptied, but for what is served of DEMO."""
    with server.client() as client:
        client.flushall()
        store = Store(client)
        store.announce(SERVED)
        assert DEMO.name == SERVED.model
        yield store


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Of client."""
    found: Kind = request.param
    return found
