from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.settings import Settings
from serving.store import Store
from tests.serving.compute.world import World, make_world
from tests.serving.servers import Server, redis_server


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> World:
    folder = tmp_path_factory.mktemp("compute")
    shutil.copy(empty_store, folder / "mlflow.db")
    settings = Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        return make_world(settings)


@pytest.fixture
def world(_world: World) -> World:
    """Version 1 is the champion, and nothing is remembered."""
    _world.promote(1)
    shutil.rmtree(_world.settings.home / "serving", ignore_errors=True)
    return _world


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    with redis.Redis.from_url(server.url, socket_timeout=5) as client:
        client.flushall()
        yield Store(client)
