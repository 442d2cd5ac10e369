"""Embedding distribution shift (sections 5.2 and 6.5): how far the day's embeddings moved, and by what.

same_inputs: one sample of the day's users through the parent's snapshot and the candidate's: the model alone.
consecutive_days: users of both the last promoted day and this one, as consumers see them; computed vectors
(pooling `none`) and averaged ones (pooling `3`), Table 3 of the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from features.fingerprint import fingerprint
from features.hashing import hash_ids
from features.lake import Lake, Partition
from features.schema import USER_ID
from infra.settings import Settings
from snapshots.embeddings import POOLINGS
from snapshots.inference import ROWS_PER_BATCH, Embedder, embedder_of, one_thread
from snapshots.movement import Movement, common_movement, movement
from snapshots.registry import Registry, Version, partition_from, partition_tags
from snapshots.runs import log_metrics
from snapshots.summary import Summarised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Gate, Recipe

log = logging.getLogger(__name__)

Kind = Literal["same_inputs", "consecutive_days"]
Verdict = Literal["ok", "hold", "reject", "info"]

SAMPLE_USERS = 20_000
NOT_POOLED = "none"
_DEFINITION = 1  # of the metrics: part of the fingerprint

ROWS = pa.schema(
    [
        ("version", pa.int32()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("embedding", pa.int8()),
        ("pooling", pa.string()),
        ("value", pa.float64()),
        ("num_users", pa.int64()),
        ("threshold", pa.float64()),
        ("verdict", pa.string()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShiftRow:
    """One number. metric: `predecessor` (is there a version to compare with: 1 or 0; no embedding), or a
    statistic of `snapshots.movement`."""

    version: int
    kind: Kind
    metric: str
    embedding: int | None
    pooling: str
    value: float
    num_users: int
    threshold: float | None
    verdict: Verdict
    note: str = ""
    """Why it could not be measured."""


@dataclass(frozen=True, kw_only=True)
class Shift(Summarised):
    """The rows of `shift/<model>` for one day."""

    model: str
    ds: date
    version: int
    previous_ds: date | None
    """The last promoted day before this one."""
    partition: Partition
    rows: tuple[ShiftRow, ...]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a version is compared with, all of it fixed once the versions before it are decided."""

    version: Version
    embeddings: Partition
    users: Partition
    parent: Version | None
    previous: Partition | None


def table_of(model: str) -> str:
    """The lake's table of the model's shift."""
    return f"shift/{model}"


def compared(recipe: Recipe, ds: date, *, registry: Registry, lake: Lake) -> Compared:
    """The day's version and its predecessors. ValueError when the day is not embedded yet."""
    version = registry.get(recipe.name, ds)
    if version.embeddings is None:
        raise ValueError(
            f"{version.described()} has no embeddings; "
            f"run `usermodel snapshots infer --recipe {recipe.name} --ds {ds}` first"
        )
    promoted = registry.promoted_embeddings(recipe.name, before=ds)
    return Compared(
        version=version,
        embeddings=version.embeddings,
        users=lake.get(f"user_features/{recipe.source.name}", ds),
        parent=None if version.parent is None else registry.number(recipe.name, version.parent),
        previous=promoted[0] if promoted else None,
    )


def check_shift(recipe: Recipe, ds: date, *, settings: Settings) -> Shift:
    """Measure the day's shift into `shift/<model>` and MLflow. ValueError when the day is not embedded."""
    registry, lake = Registry(settings), Lake(settings.lake)
    pair = compared(recipe, ds, registry=registry, lake=lake)
    key = fingerprint(
        _DEFINITION, SAMPLE_USERS, recipe.gate, pair.version.number, pair.version.fingerprint,
        pair.embeddings.fingerprint, pair.users.fingerprint,
        pair.parent and pair.parent.fingerprint, pair.previous and pair.previous.fingerprint,
    )  # fmt: skip
    measured = partition_from(pair.version.tags, "shift", ds)
    found = measured or lake.find(table_of(recipe.name), ds)
    if found is None or not key.startswith(found.fingerprint):
        rows = [*same_inputs(recipe, pair, lake), *consecutive_days(recipe, pair, lake)]
        table = pa.Table.from_pylist([vars(row) for row in rows], schema=ROWS)
        found = lake.commit(
            table_of(recipe.name), ds, table, fingerprint=key, metadata={"version": pair.version.number}
        )
    shift = Shift(
        model=recipe.name,
        ds=ds,
        version=pair.version.number,
        previous_ds=pair.previous.ds if pair.previous else None,
        partition=found,
        rows=read_rows(lake, found),
    )
    registry.tag(pair.version, partition_tags("shift", found))
    log_metrics(registry, recipe, pair.version, {_metric_name(row): row.value for row in shift.rows})
    for row in shift.rows:
        if row.threshold is not None:
            log.info(
                "shift model=%s ds=%s %s %s embedding=%s value=%.4f threshold=%.4f %s",
                recipe.name, ds, row.kind, row.metric, row.embedding, row.value, row.threshold, row.verdict,
            )  # fmt: skip
    return shift


def read_rows(lake: Lake, partition: Partition) -> tuple[ShiftRow, ...]:
    """The partition's rows, as they were written."""
    dataset = lake.dataset(partition)
    written = set(dataset.schema.names)  # older days have no notes
    rows = dataset.to_table(columns=[name for name in ROWS.names if name in written]).to_pylist()
    return tuple(ShiftRow(**{**row, "note": row.get("note") or ""}) for row in rows)


def same_inputs(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """The model alone: the same rows of user features through the parent's snapshot and the candidate's."""
    number = pair.version.number
    if pair.parent is None:
        yield _predecessor(number, "same_inputs", found=False, num_users=0, verdict="info")
        return
    after = embedder_of(pair.version)
    try:
        a, b = _embed_by_both(pair, pair.parent, after, lake)  # [N, K, D]
    except _NotComparableError as error:
        log.warning("shift not comparable model=%s ds=%s: %s", recipe.name, pair.version.ds, error)
        yield _predecessor(number, "same_inputs", found=False, num_users=0, verdict="hold", note=str(error))
        return
    yield _predecessor(number, "same_inputs", found=True, num_users=len(a), verdict="ok")
    for k in range(a.shape[1]):
        yield from _rows(number, "same_inputs", movement(a[:, k], b[:, k]), embedding=k, pooling=NOT_POOLED, gate=None)


class _NotComparableError(ValueError):
    """The parent's snapshot and the day's do not take the same users to the same space."""


def _embed_by_both(
    pair: Compared, parent: Version, after: Embedder, lake: Lake
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The sample by the parent's snapshot and by the day's, [N, K, D] each.

    _NotComparableError where the schema or the tower changed so much that the parent's cannot embed the day.
    """
    try:
        before = embedder_of(parent)
    except (OSError, ValueError) as error:
        raise _NotComparableError(f"version {parent.number} of {parent.ds} cannot be used: {error}") from error
    columns = sorted({*before.columns, *after.columns})
    if missing := sorted(set(columns) - set(lake.dataset(pair.users).schema.names)):
        raise _NotComparableError(f"version {parent.number} of {parent.ds} reads {missing}, which the day lacks")
    vectors_before, vectors_after = [], []
    with one_thread():
        for rows in _sample(lake, pair.users, columns):
            gone = [name for name in before.columns if name not in after.columns and rows.column(name).null_count]
            if gone:  # a column stays in the table when its feature went; the parent would read nulls as nothing
                raise _NotComparableError(f"version {parent.number} of {parent.ds} reads {gone}, which the day lacks")
            vectors_after.append(after.embed(rows))
            try:
                vectors_before.append(before.embed(rows))
            except ValueError as error:
                raise _NotComparableError(
                    f"version {parent.number} of {parent.ds} cannot embed the day's users: {error}"
                ) from error
    a, b = np.concatenate(vectors_before), np.concatenate(vectors_after)
    if a.shape != b.shape:
        raise _NotComparableError(
            f"version {parent.number} of {parent.ds} gives {a.shape[1]} embeddings of {a.shape[2]}, "
            f"the day's {b.shape[1]} of {b.shape[2]}"
        )
    return a, b


def consecutive_days(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[ShiftRow]:
    """As consumers see it: the users of the last promoted day and this one, computed and pooled."""
    number = pair.version.number
    moved = dict(day_movements(recipe, pair, lake))
    num_users = min((found.num_users for found in moved.values()), default=0)
    verdict: Verdict = "info" if pair.previous is None else "ok" if num_users else "hold"
    yield _predecessor(
        number, "consecutive_days", found=pair.previous is not None, num_users=num_users, verdict=verdict
    )
    if not num_users:
        return
    for (prefix, k), found in moved.items():
        pooling = str(recipe.pooling_versions) if prefix == "pooled" else NOT_POOLED
        gate = recipe.gate if prefix == "pooled" else None
        yield from _rows(number, "consecutive_days", found, embedding=k, pooling=pooling, gate=gate)


def day_movements(recipe: Recipe, pair: Compared, lake: Lake) -> Iterator[tuple[tuple[str, int], Movement]]:
    """((`embedding` | `pooled`, k), movement since the last promoted day); none without one."""
    if pair.previous is None:
        return
    for prefix in POOLINGS:
        for k in range(recipe.user_tower.num_embeddings):
            yield (
                (prefix, k),
                common_movement(
                    lake, pair.previous, pair.embeddings, column=f"{prefix}_{k}", dim=recipe.user_tower.dim
                ),
            )


def _rows(
    number: int, kind: Kind, moved: Movement, *, embedding: int, pooling: str, gate: Gate | None
) -> Iterator[ShiftRow]:
    for metric, value in moved.statistics().items():
        threshold, verdict = _judge(metric, value, gate)
        yield ShiftRow(
            version=number,
            kind=kind,
            metric=metric,
            embedding=embedding,
            pooling=pooling,
            value=value,
            num_users=moved.num_users,
            threshold=threshold,
            verdict=verdict,
        )


def _judge(metric: str, value: float, gate: Gate | None) -> tuple[float | None, Verdict]:
    if gate is not None and metric == "cosine_mean":
        return gate.cosine_min, "ok" if value >= gate.cosine_min else "hold"
    if gate is not None and metric == "norm_change_mean":
        return gate.norm_change_max, "ok" if value <= gate.norm_change_max else "hold"
    return None, "info"


def _predecessor(number: int, kind: Kind, *, found: bool, num_users: int, verdict: Verdict, note: str = "") -> ShiftRow:
    return ShiftRow(
        version=number,
        kind=kind,
        metric="predecessor",
        embedding=None,
        pooling=NOT_POOLED,
        value=float(found),
        num_users=num_users,
        threshold=None,
        verdict=verdict,
        note=note,
    )


def _sample(lake: Lake, users: Partition, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Up to SAMPLE_USERS of the day's users, the same ones each time: those whose ids hash lowest."""
    order = _hashes(lake.read(users, columns=[USER_ID]).column(USER_ID).to_numpy())
    last = np.partition(order, SAMPLE_USERS - 1)[SAMPLE_USERS - 1] if len(order) > SAMPLE_USERS else order.max()
    for rows in lake.dataset(users).to_batches(columns=[USER_ID, *columns], batch_size=ROWS_PER_BATCH):
        sampled = rows.filter(pa.array(_hashes(rows.column(USER_ID).to_numpy()) <= last))
        if sampled.num_rows:
            yield sampled


def _hashes(user_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    hashes = user_ids.copy()
    hash_ids(hashes, 2**62)
    return hashes


def _metric_name(row: ShiftRow) -> str:
    name = f"shift {row.kind}/{row.metric}"
    return name if row.embedding is None else f"{name} {row.embedding} pooling {row.pooling}"
