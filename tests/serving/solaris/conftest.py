"""A redis-server for the tests of one module, emptied for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.solaris.store import PairStore
from tests.serving.servers import Server, redis_server
from tests.serving.solaris.world import MODEL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[PairStore]:
    with server.client() as client:
        client.flushall()
        client.script_flush()
        yield PairStore(client, MODEL)
