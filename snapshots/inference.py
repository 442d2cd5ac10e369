"""Batch inference: every active user of the day through the day's version, pooled, in one atomic commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID
from infra.settings import Settings
from snapshots.embeddings import (
    candidates_table_of,
    embeddings_schema,
    fp16_exact,
    require_layout,
    to_lists,
    writer_properties,
)
from snapshots.pooling import LOOKBACK_DAYS, History, read_history
from snapshots.registry import Registry, Version, partition_tags
from snapshots.summary import Summarised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

ROWS_PER_BATCH = 4_096
_ROWS_PER_LOG_LINE = 100 * ROWS_PER_BATCH


@dataclass(frozen=True, kw_only=True)
class Embedded(Summarised):
    """The day's embeddings, at a table version that holds exactly them."""

    model: str
    ds: date
    version: int
    partition: Partition
    num_users: int
    unchanged: bool
    seconds: float


class Embedder:
    """A sealed snapshot as a function from rows of user features to vectors."""

    def __init__(self, folder: Path, *, manifest_sha256: str | None = None) -> None:
        from features.batches import Encoder
        from snapshots.export import load_snapshot, read_contract, read_snapshot_maps

        self._snapshot = load_snapshot(folder, manifest_sha256=manifest_sha256)
        self._encoder = Encoder(read_contract(folder).schema, sides=("user",), maps=read_snapshot_maps(folder))

    @property
    def columns(self) -> list[str]:
        """The feature columns that it reads."""
        return self._encoder.columns

    def require_columns(self, lake: Lake, users: Partition) -> None:
        """ValueError where the day's files lack a feature that it reads."""
        from features.reader import require_columns

        require_columns(lake.dataset(users), users, self._encoder)

    def embed(self, rows: pa.RecordBatch) -> NDArray[np.float32]:
        """[B, K, D], fp16-exact. ValueError names a user whose vector is not finite."""
        import torch

        with torch.inference_mode():
            batch = self._encoder.encode(rows)
            vectors = fp16_exact(self._snapshot.embed(batch).numpy())
        finite = np.isfinite(vectors).all(axis=(1, 2))
        if not finite.all():
            user = rows.column(USER_ID)[int(np.argmin(finite))]
            raise ValueError(
                f"user {user} has a vector with NaN or inf ({int((~finite).sum())} such users in the batch); "
                "nothing is written: look at the training loss and at that user's features"
            )
        return vectors


def embedder_of(version: Version) -> Embedder:
    """The version's embedder, its checksums verified against the registry."""
    return Embedder(version.path, manifest_sha256=version.tags["manifest_sha256"])


def infer(recipe: Recipe, ds: date, *, settings: Settings) -> Embedded:
    """Embed every row of the day's user features with the day's version into `user_embeddings/<model>`.

    Pools with the computed vectors of the previously promoted days. A promoted day is sealed: it is handed
    back as it is.
    """
    began = time.monotonic()
    registry, lake = Registry(settings), Lake(settings.lake)
    version = registry.get(recipe.name, ds)
    users = lake.get(f"user_features/{recipe.source.name}", ds)
    table, tower = candidates_table_of(recipe.name), recipe.user_tower
    if version.decision == "promoted" and version.embeddings is not None:
        return _embedded(version, version.embeddings, lake, unchanged=True, began=began)
    previous = [
        partition
        for partition in registry.promoted_embeddings(recipe.name, before=ds)
        if (ds - partition.ds).days <= LOOKBACK_DAYS
    ]
    key = fingerprint(
        version.fingerprint, users.fingerprint, [p.fingerprint for p in previous],
        recipe.pooling_versions, LOOKBACK_DAYS, tower.num_embeddings, tower.dim, version.number,
    )  # fmt: skip
    found = lake.find(table, ds)
    if found is not None and key.startswith(found.fingerprint):
        unchanged, partition = True, found
    else:
        unchanged, partition = False, _write(recipe, version, lake, users, previous, key=key)
    if version.embeddings is None or version.embeddings.fingerprint != partition.fingerprint:
        inputs = partition_tags("embeddings", partition) | partition_tags("user_features", users)
        version = registry.tag(version, inputs)
    return _embedded(version, version.embeddings or partition, lake, unchanged=unchanged, began=began)


def _embedded(version: Version, partition: Partition, lake: Lake, *, unchanged: bool, began: float) -> Embedded:
    return Embedded(
        model=version.model,
        ds=version.ds,
        version=version.number,
        partition=partition,
        num_users=lake.dataset(partition).count_rows(),
        unchanged=unchanged,
        seconds=round(time.monotonic() - began, 3),
    )


def _write(
    recipe: Recipe, version: Version, lake: Lake, users: Partition, previous: list[Partition], *, key: str
) -> Partition:
    num_embeddings, dim = recipe.user_tower.num_embeddings, recipe.user_tower.dim
    table = candidates_table_of(recipe.name)
    schema = embeddings_schema(num_embeddings=num_embeddings, dim=dim, model=recipe.name)
    existing = lake.open(table)
    if existing is not None:
        require_layout(existing, schema)
    embedder = embedder_of(version)
    embedder.require_columns(lake, users)
    history = read_history(
        lake,
        previous,
        lake.read(users, columns=[USER_ID]).column(USER_ID).to_numpy(),
        num_embeddings=num_embeddings,
        dim=dim,
        versions=recipe.pooling_versions,
    )
    rows = lake.dataset(users).to_batches(columns=[USER_ID, EVENT_TIME, *embedder.columns], batch_size=ROWS_PER_BATCH)
    failures: list[Exception] = []
    batches = _kept(_embedded_batches(rows, embedder, history, schema, version=version), failures)
    try:
        with one_thread():
            return lake.commit(
                table,
                version.ds,
                pa.RecordBatchReader.from_batches(schema, batches),
                fingerprint=key,
                metadata={
                    "version": version.number,
                    "model_fingerprint": version.fingerprint,
                    "user_features": f"{users.table}@{users.version}:{users.fingerprint}",
                    "pooled_with": " ".join(f"{p.ds}@{p.version}:{p.fingerprint}" for p in previous),
                },
                writer=writer_properties(),
            )
    except Exception:
        if failures:
            raise failures[0] from None  # what the Arrow stream turned into a message of its own
        raise


def _embedded_batches(
    rows: Iterable[pa.RecordBatch],
    embedder: Embedder,
    history: History,
    schema: pa.Schema,
    *,
    version: Version,
) -> Iterator[pa.RecordBatch]:
    began, num_rows = time.monotonic(), 0
    for batch in rows:
        if not batch.num_rows:
            continue
        computed = embedder.embed(batch)
        pooled, num_pooled = history.pool(batch.column(USER_ID).to_numpy(), computed)
        yield pa.RecordBatch.from_arrays(
            [
                batch.column(USER_ID),
                *(to_lists(vectors[:, k]) for vectors in (computed, pooled) for k in range(computed.shape[1])),
                pa.array(num_pooled),
                pa.repeat(pa.scalar(version.number, pa.int32()), batch.num_rows),
                batch.column(EVENT_TIME),
            ],
            schema=schema,
        )
        num_rows += batch.num_rows
        if num_rows % _ROWS_PER_LOG_LINE < batch.num_rows:
            rate = num_rows / (time.monotonic() - began)
            log.info("embedded model=%s ds=%s users=%d users/s=%.0f", version.model, version.ds, num_rows, rate)


def _kept(batches: Iterator[pa.RecordBatch], failures: list[Exception]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: one process per core, and sums in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
