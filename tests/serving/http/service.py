"""The service for tests: the real server in a thread, over a real Redis."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import redis

from features.schema import DenseFeature, Schema, SparseFeature, Table
from serving.client.model import Model
from serving.http.limits import Limits
from serving.http.server import server_of, service
from serving.record import Entry
from serving.secured.listen import OPEN, Secured
from serving.served import Served
from serving.store import Store, Write
from tests.serving.servers import until
from trainer.serving import Serving

SCHEMA = Schema(
    tables=(Table(name="items", num_rows=100),),
    sparse=(SparseFeature(name="clicked", table="items"),),
    dense=(DenseFeature(name="visits"),),
    tasks=("click",),
)
_PATIENT = 1_500.0
"""In ms: a deadline that a busy machine keeps."""
MODELS = (
    Model(
        name="demo", source="shop", schema=SCHEMA, num_embeddings=2, dim=8, serving=Serving(deadline_ms=_PATIENT)
    ),
    Model(
        name="daily", source="shop", schema=SCHEMA, num_embeddings=1, dim=4,
        serving=Serving(mode="batch", deadline_ms=_PATIENT),
    ),
)  # fmt: skip
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that answers."""

    port: int
    store: Store
    thread: threading.Thread

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def write(self, user: int, *entries: tuple[int, int], model: str = "demo") -> None:
        """Computed vectors: (version, feature time in ms) each; every number of one is its version."""
        shape = next((one.num_embeddings, one.dim) for one in MODELS if one.name == model)
        for version, feature_ms in entries:
            entry = Entry(version=version, feature_ms=feature_ms, vectors=np.full(shape, version, np.float16))
            self.store.write([Write(user=user, entries={model: (entry, DAY_SECONDS)}, future_seconds=60)])

    def send(self, raw: bytes, *, seconds: float = 10.0) -> bytes:
        """What comes back for these bytes on a connection of their own, until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(raw)
            parts = []
            while part := connection.recv(65_536):
                parts.append(part)
        return b"".join(parts)


@contextmanager
def running(store_url: str, limits: Limits | None = None, demands: Secured = OPEN) -> Iterator[Running]:
    """The service on a free port."""
    limits = limits or Limits(head_seconds=2.0, seconds=2.0)
    app = service(MODELS, store_url=store_url, partitions=1, limits=limits, demands=demands)
    with socket.create_server(("127.0.0.1", 0)) as listening, redis.Redis.from_url(store_url) as client:
        server = server_of(app, host="127.0.0.1", port=0, limits=limits, tls=demands.tls)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline, "the service did not start in time"
            time.sleep(0.01)
        try:
            yield Running(port=listening.getsockname()[1], store=Store(client), thread=thread)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the service did not end"


wait_until = partial(until, seconds=60)
"""Of what comes after an answer."""


def announce(store: Store, *, withdrawn: tuple[int, ...] = ()) -> None:
    """Version 5 of both models is served."""
    for model in MODELS:
        store.announce(
            Served(
                model=model.name,
                source=model.source,
                version=5,
                ds="2026-01-05",
                num_embeddings=model.num_embeddings,
                dim=model.dim,
                withdrawn=withdrawn,
            )
        )
