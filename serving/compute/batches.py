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

RECORDS_PER_CALL = 32
"""The store does nothing else while a call runs."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Entries of one source, and the features that were known when they were taken."""

    source: str
    entries: Sequence[Queued]
    features: Sequence[Features | None]


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Of one model. at: [n], which of the batch's users; entries: [n] of `serving.record.entry_type`, one for each."""

    champion: Champion
    at: NDArray[np.int64]
    entries: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a batch came to. users: each once."""

    batch: Batch
    users: list[int] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    failed: bool = False
    """A model did not compute: the entries stay pending, for another try."""
    missing: Sequence[str] = ()
    """Models of the source that have no version: nobody gets vectors of them."""


@dataclass(frozen=True, kw_only=True)
class Merges:
    """One call of MERGE_MANY. models, users: whose each record is."""

    call: Call
    models: list[str]
    users: list[int]


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
    """Calls of MERGE_MANY: every user's models in one call, some users of one partition together."""
    users = np.array(computed.users, np.int64)
    partitions = keys.partitions_of(users)
    most = max(1, RECORDS_PER_CALL // max(len(computed.vectors), 1))
    entry_of = []
    for one in computed.vectors:
        entry_of.append(np.full(len(users), -1))
        entry_of[-1][one.at] = np.arange(len(one.at))
    found = []
    for partition in np.unique(partitions).tolist():
        inside = np.flatnonzero(partitions == partition)
        for begin in range(0, len(inside), most):
            part = inside[begin : begin + most]
            rows = [entries[part] for entries in entry_of]
            rows = [one[one >= 0] for one in rows]
            found.append(_merges(list(zip(computed.vectors, rows, strict=True)), users, partition, keys))
    return [one for one in found if one.users]


def _merges(
    parts: Sequence[tuple[Vectors, NDArray[np.int64]]], users: NDArray[np.int64], partition: int, keys: Keys
) -> Merges:
    """parts: of each model, which of its entries."""
    names: list[str] = []
    arguments: list[Any] = []
    models: list[str] = []
    whose: list[int] = []
    future = 0.0
    for vectors, rows in parts:
        champion, of = vectors.champion, users[vectors.at[rows]].tolist()
        if not of:
            continue
        policy, model = champion.recipe.serving, champion.reference.model
        future = max(future, policy.future_seconds)
        head, blob = header(champion.num_embeddings, champion.dim, policy.pool), vectors.entries[rows].tobytes()
        names += keys.records_of(model, of, partition)
        arguments += (len(of), milliseconds(policy.failover_seconds), head, blob)
        models += [model] * len(of)
        whose += of
    limits = [milliseconds(future), KEPT, milliseconds(LOOKBACK_SECONDS)]
    return Merges(call=(names, limits + arguments), models=models, users=whose)


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
    statistics.count("computed", len(at), model=model)
    return Vectors(champion=champion, at=at, entries=entries)


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
