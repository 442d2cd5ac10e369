"""The daily retraining of a downstream model, with the user embeddings and without (section 6.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from features.days import day_before
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.reader import DayReader
from features.schema import USER_ID, Schema
from infra.settings import Settings
from trainer.downstream.arms import Pair, own_features, small_tables
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import Coverage, DownstreamDay
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, NewestEmbeddings, newest_embeddings, usable
from trainer.downstream.scores import Breakdown, compare
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.recipes import get_recipe

log = logging.getLogger(__name__)

_FORMAT = 1
"""Part of the fingerprint: raise it when the same inputs give another model."""
_EVALUATION_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Everything that one retraining is made from."""

    downstream: DownstreamRecipe
    upstream: Recipe
    schema: Schema
    """The upstream source's, with small tables."""
    ds: date
    lake: Lake
    examples: Partition
    embeddings: tuple[Partition, ...]
    parent: DownstreamDay | None

    @property
    def fingerprint(self) -> str:
        """The same for the same recipe, examples, embeddings and parent."""
        seen = [(partition.table, partition.ds, partition.fingerprint) for partition in self.embeddings]
        parent = self.parent.fingerprint if self.parent else None
        tower = self.upstream.user_tower
        return fingerprint(
            _FORMAT,
            self.downstream,
            self.schema,
            (tower.num_embeddings, tower.dim),
            (self.examples.table, self.ds, self.examples.fingerprint),
            seen,
            parent,
        )


def retrain(
    downstream: DownstreamRecipe, ds: date, *, settings: Settings, promoted: Sequence[Partition]
) -> DownstreamDay:
    """Retrain `downstream` on the examples of `ds`, both arms, from its newest trained day before.

    promoted: the partitions of `user_embeddings/<upstream>` whose version is promoted, one per day. Those of
    `ds` and later are never read: examples see the embeddings as of the day before. Repeating it changes
    nothing. MissingPartitionError without examples; NoEmbeddingsError without an embedding to join.
    """
    return retrain_on(downstream, get_recipe(downstream.upstream), ds, settings=settings, promoted=promoted)


def retrain_on(
    downstream: DownstreamRecipe,
    upstream: Recipe,
    ds: date,
    *,
    settings: Settings,
    promoted: Sequence[Partition],
) -> DownstreamDay:
    """`retrain`, for an upstream recipe that has no entry in `trainer.recipes`."""
    if upstream.name != downstream.upstream:
        raise ValueError(f"downstream model {downstream.name} consumes {downstream.upstream}, not {upstream.name}")
    if downstream.task not in upstream.source.schema.tasks:
        raise ValueError(
            f"downstream model {downstream.name}: task {downstream.task!r} is no label of "
            f"{upstream.source.name}: {upstream.source.schema.tasks}"
        )
    lake = Lake(settings.lake)
    examples = lake.get(f"examples/{upstream.source.name}", ds)
    embeddings = usable(promoted, ds, table=f"user_embeddings/{upstream.name}", lookback_days=downstream.lookback_days)
    checkpoints = Checkpoints(settings, downstream.name)
    with checkpoints.lock():
        work = _Work(
            downstream=downstream,
            upstream=upstream,
            schema=small_tables(upstream.source.schema),
            ds=ds,
            lake=lake,
            examples=examples,
            embeddings=embeddings,
            parent=checkpoints.before(ds),
        )
        done = checkpoints.find(ds, work.fingerprint)
        if done is not None:
            log.info("downstream unchanged model=%s ds=%s fingerprint=%s", done.model, ds, done.fingerprint[:8])
            return done
        if work.parent is not None and work.parent.ds != day_before(ds):
            log.warning("downstream gap model=%s ds=%s goes on from ds=%s", downstream.name, ds, work.parent.ds)
        return _retrain(work, checkpoints)


def _retrain(work: _Work, checkpoints: Checkpoints) -> DownstreamDay:
    started = time.perf_counter()
    torch.set_num_threads(1)
    users, counts = _users(work)
    embeddings = _join(work, users)
    pair = Pair(work.downstream, work.schema, work.upstream.user_tower)
    evaluation = None
    if work.parent is not None:
        pair.load(checkpoints.load(work.parent))
        predictions = pair.evaluate(_batches(work, embeddings, _EVALUATION_BATCH))
        evaluation = compare(predictions, bootstrap_seed=work.downstream.seed)
        _log(work, "eval", evaluation)
    training = compare(pair.train(_batches(work, embeddings, work.downstream.batch_size)))
    _log(work, "train", training)
    day = DownstreamDay(
        model=work.downstream.name,
        upstream=work.upstream.name,
        ds=work.ds,
        day_index=(work.ds - work.upstream.schedule.start).days,
        fingerprint=work.fingerprint,
        parent_ds=work.parent.ds if work.parent else None,
        parent_fingerprint=work.parent.fingerprint if work.parent else None,
        examples=work.examples,
        embeddings=work.embeddings,
        num_examples=training.everyone.num_examples,
        num_users=training.everyone.num_users,
        coverage=_coverage(users, counts, embeddings),
        evaluation=evaluation,
        training=training,
        seconds=time.perf_counter() - started,
        revision=0,
        path=checkpoints.folder,
    )
    return checkpoints.seal(day, pair.state())


def _users(work: _Work) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The day's users, ascending, and the number of examples of each."""
    ids = work.lake.read(work.examples, columns=[USER_ID]).column(USER_ID).to_numpy()
    return np.unique(ids, return_counts=True)


def _join(work: _Work, users: npt.NDArray[np.int64]) -> NewestEmbeddings:
    tower = work.upstream.user_tower
    return newest_embeddings(
        work.lake,
        work.embeddings,
        ds=work.ds,
        day_starts_at=work.upstream.source.day_starts_at,
        users=users,
        num_embeddings=tower.num_embeddings,
        dim=tower.dim,
    )


def _batches(work: _Work, embeddings: NewestEmbeddings, batch_size: int) -> Iterator[JoinedBatch]:
    """The day's examples in the order of (seed, ds), decoded and joined ahead by the reader's thread."""
    encoder = JoiningEncoder(
        work.schema,
        task=work.downstream.task,
        features=own_features(work.downstream, work.schema),
        embeddings=embeddings,
    )
    reader = DayReader(work.lake, work.examples, encoder, batch_size=batch_size, seed=work.downstream.seed)
    return (cast(JoinedBatch, batch) for batch in reader)


def _coverage(users: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], embeddings: NewestEmbeddings) -> Coverage:
    known = np.isin(users, embeddings.user_ids, assume_unique=True)
    return Coverage(
        users=float(known.mean()),
        examples=float(counts[known].sum() / counts.sum()),
        mean_age_days=float(embeddings.age_days.mean()) if embeddings.age_days.size else 0.0,
    )


def _log(work: _Work, kind: str, breakdown: Breakdown) -> None:
    result = breakdown.everyone
    low, high = result.interval or (float("nan"), float("nan"))
    log.info(
        "downstream %s model=%s ds=%s examples=%d ne_baseline=%s ne_sum=%s ne_diff=%+.3f%% [%+.3f, %+.3f]",
        kind, work.downstream.name, work.ds, result.num_examples, result.baseline.ne, result.sum.ne,
        result.ne_diff_percent, low, high,
    )  # fmt: skip
