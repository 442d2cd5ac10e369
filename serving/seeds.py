"""Many users' entries and features into the store at once: the bytes are made a batch at a time, not user by user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.calls import Call, Script
from serving.keys import Keys
from serving.record import KEPT, LOOKBACK_SECONDS, entry_type, header
from serving.scripts import SEED, SEED_FEATURES
from serving.store import Store, milliseconds

if TYPE_CHECKING:
    from trainer.serving import Pool

USERS_PER_CALL = 64
"""A script holds the server up while it runs: for less than a millisecond."""
_SEED, _SEED_FEATURES = Script(SEED), Script(SEED_FEATURES)


@dataclass(frozen=True, kw_only=True)
class Seeding:
    """How the entries of one model are loaded."""

    model: str
    ttl_seconds: float
    future_seconds: float
    pool: Pool = "computations"
    dropped: tuple[int, ...] = ()
    """Versions whose entries go from the records that are touched."""


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What became of entries."""

    written: int = 0
    known: int = 0
    """They were there."""
    older: int = 0
    """The record holds newer ones."""
    future: int = 0
    """Refused: further in the future, by the store's clock, than the model allows."""

    def __add__(self, other: Seeded) -> Seeded:
        return Seeded(
            written=self.written + other.written,
            known=self.known + other.known,
            older=self.older + other.older,
            future=self.future + other.future,
        )


def entries_of(
    vectors: NDArray[np.float32], *, versions: NDArray[np.int32], feature_ms: NDArray[np.int64]
) -> NDArray[Any]:
    """[N] entries as a record holds them, of computed vectors [N, K, D]; the store says when they were written."""
    entries = np.zeros(len(vectors), entry_type(*vectors.shape[1:]))
    entries["version"], entries["feature_ms"], entries["vectors"] = versions, feature_ms, vectors
    return entries


def seed(store: Store, users: NDArray[np.int64], entries: NDArray[Any], *, how: Seeding) -> Seeded:
    """Merge an entry for each of `users` [N] into its record, atomically each, all of them in one round trip."""
    num_embeddings, dim = entries.dtype["vectors"].shape
    before: list[Any] = [milliseconds(how.future_seconds), KEPT, milliseconds(LOOKBACK_SECONDS)]
    before += [milliseconds(how.ttl_seconds), header(num_embeddings, dim, how.pool)]
    dropped = np.array(how.dropped, "<u4").tobytes()
    calls: list[Call] = []
    for partition, rows in _parts(store.keys, users):
        names = store.keys.records_of(how.model, users[rows].tolist(), partition)
        calls.append((names, [*before, entries[rows].tobytes(), dropped]))
    found = np.array(_SEED.run(store.redis, calls), np.int64).reshape(-1, 4).sum(axis=0).tolist()
    return Seeded(written=found[0], known=found[1], older=found[2], future=found[3])


def seed_features(
    store: Store,
    source: str,
    users: NDArray[np.int64],
    feature_ms: NDArray[np.int64],
    payloads: Sequence[bytes],
    *,
    ttl_seconds: float,
    future_seconds: float,
) -> int:
    """Make these the users' known features where they are newer; how many were."""
    times = np.ascontiguousarray(feature_ms, "<i8").tobytes()
    values = [times[8 * row : 8 * row + 8] + payload for row, payload in enumerate(payloads)]
    before = [milliseconds(future_seconds), milliseconds(ttl_seconds)]
    calls: list[Call] = []
    for partition, rows in _parts(store.keys, users):
        names = store.keys.features_of(source, users[rows].tolist(), partition)
        calls.append((names, [*before, *(values[row] for row in rows.tolist())]))
    return sum(_SEED_FEATURES.run(store.redis, calls))


def _parts(keys: Keys, users: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows of one partition, USERS_PER_CALL at a time."""
    partitions = keys.partitions_of(users)
    order = np.argsort(partitions, kind="stable")
    ends = np.flatnonzero(np.diff(partitions[order])) + 1
    for rows in np.split(order, ends):
        for begin in range(0, len(rows), USERS_PER_CALL):
            yield int(partitions[rows[0]]), rows[begin : begin + USERS_PER_CALL]
