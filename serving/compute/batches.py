"""One micro-batch: the users' features decoded once, computed by every model of their source, packed for the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.calls import Call
from serving.compute.champions import Champion, Tower
from serving.compute.queue import Features, Queued
from serving.compute.statistics import Statistics
from serving.features import FeatureCodec
from serving.keys import Keys
from serving.record import KEPT, LOOKBACK_SECONDS, entry_type, header
from serving.store import milliseconds

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

RECORDS_PER_CALL = 16
"""The store does nothing else while a call runs."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Entries of one source, and the features that were known when they were taken."""

    source: str
    entries: Sequence[Queued]
    features: Sequence[Features | None]


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Of one model. at: which of the batch's users, in rising order; packed: an entry of the store's for each."""

    champion: Champion
    at: NDArray[np.int64]
    packed: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a batch came to. users: each once."""

    batch: Batch
    users: list[int] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    failed: bool = False
    """A model did not compute: the entries stay pending, for another try."""


@dataclass(frozen=True, kw_only=True)
class Merges:
    """One call of MERGE. users, models: whose each record is; the users are of one partition."""

    call: Call
    users: list[int]
    models: list[str]


def compute(batch: Batch, champions: Sequence[Champion], codec: FeatureCodec, statistics: Statistics) -> Computed:
    """Every model's vectors, of every user that has features it can read.

    OSError: a tower that asks others got no answer; the same batch may be computed later.
    """
    users, features = _newest(batch, codec, statistics)
    if not users:
        return Computed(batch=batch)
    rows = codec.decode(users, [one.payload for one in features])
    feature_ms = np.array([one.feature_ms for one in features], np.int64)
    found, failed = [], False
    for champion in champions:
        try:
            found.append(_of_model(champion, rows, feature_ms, statistics))
        except OSError:
            raise
        except Exception:  # the other models' vectors are written
            log.exception("batch failed model=%s users=%d", champion.reference.model, len(users))
            failed = True
    return Computed(batch=batch, users=users, vectors=found, failed=failed)


def merges_of(computed: Computed, keys: Keys) -> list[Merges]:
    """Calls of MERGE, all models of a user in one."""
    places: dict[int, list[tuple[Champion, bytes]]] = {}
    for one in computed.vectors:
        for at, entry in zip(one.at.tolist(), one.packed, strict=True):
            places.setdefault(at, []).append((one.champion, entry))
    by_partition: dict[int, list[int]] = {}
    for at in places:
        by_partition.setdefault(keys.partition(computed.users[at]), []).append(at)
    most = max(1, RECORDS_PER_CALL // max(len(computed.vectors), 1))
    return [
        _merges([(computed.users[at], places[at]) for at in group[begin : begin + most]], keys)
        for group in by_partition.values()
        for begin in range(0, len(group), most)
    ]


def _merges(users: Sequence[tuple[int, list[tuple[Champion, bytes]]]], keys: Keys) -> Merges:
    names: list[str] = []
    arguments: list[Any] = []
    models: list[str] = []
    future = 0.0
    for user, entries in users:
        for champion, entry in entries:
            policy, model = champion.recipe.serving, champion.reference.model
            future = max(future, policy.future_seconds)
            names.append(keys.record(model, user))
            arguments += (milliseconds(policy.failover_seconds), header(champion.num_embeddings, champion.dim), entry)
            models.append(model)
    head = [milliseconds(future), KEPT, milliseconds(LOOKBACK_SECONDS)]
    return Merges(
        call=(names, head + arguments), users=[user for user, entries in users for _ in entries], models=models
    )


def _newest(batch: Batch, codec: FeatureCodec, statistics: Statistics) -> tuple[list[int], list[Features]]:
    """Each user once, with the features that were read last; those whose features cannot be read are counted."""
    newest = {entry.user: one for entry, one in zip(batch.entries, batch.features, strict=True) if one is not None}
    statistics.count("coalesced", len(batch.entries) - len({entry.user for entry in batch.entries}))
    _refused(batch.features.count(None), "all", "features_gone", statistics)
    users, features = list(newest), list(newest.values())
    sound = codec.sound([one.payload for one in features])
    if not sound.all():
        _refused(int((~sound).sum()), "all", "unreadable", statistics)
        users = [user for user, good in zip(users, sound.tolist(), strict=True) if good]
        features = [one for one, good in zip(features, sound.tolist(), strict=True) if good]
    return users, features


def _of_model(
    champion: Champion, rows: pa.RecordBatch, feature_ms: NDArray[np.int64], statistics: Statistics
) -> Vectors:
    model = champion.reference.model
    inputs, at = _encoded(champion.tower, rows)
    _refused(rows.num_rows - len(at), model, "features", statistics)
    vectors = champion.tower.compute(inputs, num_rows=len(at))
    with np.errstate(over="ignore", invalid="ignore"):
        exact = vectors.astype(np.float16)
    finite = np.isfinite(exact).all(axis=(1, 2))
    if not finite.all():
        _refused(int((~finite).sum()), model, "not_finite", statistics)
        exact, at = exact[finite], at[finite]
    entries = np.zeros(len(at), entry_type(*exact.shape[1:]))
    entries["version"], entries["feature_ms"] = champion.reference.version, feature_ms[at]
    entries["vectors"] = exact
    packed, size = entries.tobytes(), entries.itemsize
    statistics.count("computed", len(at), model=model)
    return Vectors(
        champion=champion, at=at, packed=[packed[begin : begin + size] for begin in range(0, len(packed), size)]
    )


def _encoded(tower: Tower, rows: pa.RecordBatch) -> tuple[Sequence[Any], NDArray[np.int64]]:
    """The tower's inputs, and which rows they are: without those that it refuses."""
    try:
        return tower.encode(rows), np.arange(rows.num_rows)
    except ValueError as error:
        log.warning("features that no batch can hold: %s", error)
    kept = np.array(_kept(tower, rows, 0), np.int64)
    return tower.encode(rows.take(kept)), kept


def _kept(tower: Tower, rows: pa.RecordBatch, begin: int) -> list[int]:
    """Rows that the tower encodes, found by halving."""
    try:
        tower.encode(rows)
    except ValueError:
        if rows.num_rows == 1:
            return []
        half = rows.num_rows // 2
        return _kept(tower, rows.slice(0, half), begin) + _kept(tower, rows.slice(half), begin + half)
    return list(range(begin, begin + rows.num_rows))


def _refused(number: int, model: str, reason: str, statistics: Statistics) -> None:
    if number:
        statistics.count("refused", number, model=model, reason=reason)
        log.warning("users refused model=%s reason=%s users=%d", model, reason, number)
