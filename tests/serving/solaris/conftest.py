"""A redis-server for the tests of one module, with nothing but users' features in it for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.solaris.store import PairStore
from tests.serving.servers import Server, redis_server
from tests.serving.solaris.world import MODEL, give_features

USERS = range(200)
"""Have features."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[PairStore]:
    with server.client() as client:
        client.flushall()
        client.script_flush()
        made = PairStore(client, MODEL)
        give_features(made, USERS)
        yield made
