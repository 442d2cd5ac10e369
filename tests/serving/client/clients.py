"""Both clients behind one face, so that a test says once what both must do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from features.schema import DenseFeature, Schema, SparseFeature, Table
from serving.client.answer import Answer
from serving.client.asynchronous import AsyncEmbeddingClient
from serving.client.model import Model
from serving.client.options import Options
from serving.client.sync import EmbeddingClient
from serving.record import Entry
from serving.store import Store, Write
from trainer.serving import Serving

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
SCHEMA = Schema(
    tables=(Table(name="items", num_rows=100),),
    sparse=(SparseFeature(name="clicked", table="items", side="user"),),
    dense=(DenseFeature(name="age", side="user"),),
    tasks=("click",),
)
PATIENT_MS = 5_000.0
"""A machine that others use may take its time; tests of deadlines have their own."""
DEMO = Model(name="demo", source="s", schema=SCHEMA, num_embeddings=2, dim=4, serving=Serving(deadline_ms=PATIENT_MS))
"""Of the mode async, as recipes are unless they say otherwise."""
NOW_MS = int(1000 * time.time())
FEATURES = {"clicked": [3, 1], "age": 40.0}


def with_policy(**policy: Any) -> Model:
    """DEMO, served so."""
    return replace(DEMO, serving=Serving(**{"deadline_ms": PATIENT_MS, **policy}))


class Client(Protocol):
    """What both have."""

    def get(self, user: int, models: Sequence[str] | None = None, **request: Any) -> dict[str, Answer]: ...
    def statistics(self) -> dict[str, Any]: ...
    def flush(self, *, timeout_seconds: float = 5.0) -> bool: ...


class _Waited:
    """The asyncio one, its loop in a thread."""

    def __init__(self, url: str, models: Sequence[Model], options: Options) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.client = AsyncEmbeddingClient(url, models, options)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(20)

    def get(self, user: int, models: Sequence[str] | None = None, **request: Any) -> dict[str, Answer]:
        found: dict[str, Answer] = self.run(self.client.get(user, models, **request))
        return found

    def statistics(self) -> dict[str, Any]:
        return self.client.statistics()

    def flush(self, *, timeout_seconds: float = 5.0) -> bool:
        return bool(self.run(self.client.flush(timeout_seconds=timeout_seconds)))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def client_of(kind: Kind, url: str, *models: Model, **options: Any) -> Iterator[Client]:
    """Open, closed at the end. Quick to refresh, unless told otherwise."""
    chosen = Options(**{"refresh_seconds": 0.05, **options})
    if kind == "sync":
        with EmbeddingClient(url, models, chosen) as client:
            yield client
        return
    waited = _Waited(url, models, chosen)
    try:
        waited.run(waited.client.open())
        try:
            yield waited
        finally:
            waited.run(waited.client.close())
    finally:
        waited.stop()


def write(store: Store, user: int, *versions: int, model: Model = DEMO, value: float | None = None) -> None:
    """An entry of each version, of feature times in their order and, unless told otherwise, that value."""
    for version in versions:
        vectors = np.full((model.num_embeddings, model.dim), version if value is None else value, np.float16)
        one = Entry(version=version, feature_ms=NOW_MS + version, vectors=vectors)
        store.write([Write(user=user, entries={model.name: (one, 86_400.0)}, future_seconds=60)])
