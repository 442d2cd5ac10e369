"""One service for all tests of it: they are told apart by their users."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.serving.http.service import Running, announce, running
from tests.serving.servers import redis_server


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with redis_server(tmp_path_factory.mktemp("redis")) as redis, running(redis.url) as service:
        announce(service.store)
        yield service


@pytest.fixture(scope="session")
def http(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client
