"""The daily retraining of a downstream model, with the user embeddings and without (section 6.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
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
from features.selection import check_selections
from features.source import Source
from features.windows import examples_of
from infra.settings import Settings
from trainer.downstream.arms import SUM, Shape, own_features, shape_of, small_tables, with_and_without
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import Coverage, DownstreamDay
from trainer.downstream.joined import (
    JoinedBatch,
    JoiningEncoder,
    NewestEmbeddings,
    SideBySide,
    join_upstreams,
    usable_of,
)
from trainer.downstream.rate import positive_rate
from trainer.downstream.scores import Breakdown, compare
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.recipes import get_recipe

log = logging.getLogger(__name__)

_FORMAT = 2
"""Part of the fingerprint: raise it when the same inputs give another model."""
_EVALUATION_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Everything that one retraining is made from."""

    downstream: DownstreamRecipe
    upstreams: tuple[Recipe, ...]
    schema: Schema
    """Their source's, with small tables."""
    ds: date
    lake: Lake
    examples: Partition
    embeddings: tuple[tuple[Partition, ...], ...]
    """Of each user model, newest first."""
    parent: DownstreamDay | None

    @property
    def fingerprint(self) -> str:
        """The same for the same recipe, examples, embeddings and parent."""
        seen = [(p.table, p.ds, p.fingerprint) for partitions in self.embeddings for p in partitions]
        parent = self.parent.fingerprint if self.parent else None
        return fingerprint(
            _FORMAT,
            self.downstream,
            self.schema,
            *self.shapes,
            (self.examples.table, self.ds, self.examples.fingerprint),
            seen,
            parent,
        )

    @property
    def shapes(self) -> list[Shape]:
        """Of the user models' embeddings."""
        return [shape_of(upstream.user_tower) for upstream in self.upstreams]


def retrain(
    downstream: DownstreamRecipe, ds: date, *, settings: Settings, promoted: Mapping[str, Sequence[Partition]]
) -> DownstreamDay:
    """Retrain `downstream` on the examples of `ds`, both arms, from its newest trained day before.

    promoted: by user model, the partitions of `user_embeddings/<model>` whose version is promoted, one per day. Those
    of `ds` and later are never read: examples see the embeddings as of the day before. Repeating it changes
    nothing. MissingPartitionError without examples; NoEmbeddingsError without an embedding of any user model to join.
    """
    upstreams = tuple(get_recipe(name) for name in downstream.upstreams)
    return retrain_on(downstream, upstreams, ds, settings=settings, promoted=promoted)


def retrain_on(
    downstream: DownstreamRecipe,
    upstreams: tuple[Recipe, ...],
    ds: date,
    *,
    settings: Settings,
    promoted: Mapping[str, Sequence[Partition]],
) -> DownstreamDay:
    """`retrain`, for upstream recipes that have no entry in `trainer.recipes`."""
    source = _source(downstream, upstreams)
    lake = Lake(settings.lake)
    examples = lake.get(f"examples/{source.name}", ds)
    embeddings = usable_of(downstream, ds, promoted=promoted)
    checkpoints = Checkpoints(settings, downstream.name)
    with checkpoints.lock():
        work = _Work(
            downstream=downstream,
            upstreams=upstreams,
            schema=small_tables(source.schema),
            ds=ds,
            lake=lake,
            examples=examples,
            embeddings=embeddings,
            parent=checkpoints.before(ds),
        )
        done = checkpoints.find(ds, work.fingerprint)
        if done is not None:
            log.info("downstream unchanged model=%s ds=%s fingerprint=%s", done.model, ds, done.fingerprint[:8])
            return checkpoints.keep(done)
        if work.parent is not None and work.parent.ds != day_before(ds):
            log.warning("downstream gap model=%s ds=%s goes on from ds=%s", downstream.name, ds, work.parent.ds)
        return _retrain(work, checkpoints)


def _source(downstream: DownstreamRecipe, upstreams: tuple[Recipe, ...]) -> Source:
    """The one that all its user models learn from. ValueError where the recipes do not fit together."""
    names, source = tuple(upstream.name for upstream in upstreams), upstreams[0].source
    if names != downstream.upstreams:
        raise ValueError(f"downstream model {downstream.name} consumes {downstream.upstreams}, not {names}")
    if others := sorted({upstream.source.name for upstream in upstreams if upstream.source != source}):
        raise ValueError(
            f"downstream model {downstream.name}: {names} learn from different sources, {source.name} and {others}; "
            "name user models of one source, whose examples it is trained on"
        )
    if downstream.task not in source.schema.tasks:
        raise ValueError(
            f"downstream model {downstream.name}: task {downstream.task!r} is no label of "
            f"{source.name}: {source.schema.tasks}"
        )
    check_selections(downstream.examples, source.schema, of=f"downstream model {downstream.name}")
    return source


def _retrain(work: _Work, checkpoints: Checkpoints) -> DownstreamDay:
    started = time.perf_counter()
    torch.set_num_threads(1)
    users, counts = _users(work)
    embeddings = join_upstreams(work.lake, work.upstreams, work.embeddings, ds=work.ds, users=users)
    arms = with_and_without(work.downstream, work.schema, work.shapes)
    evaluation = None
    if work.parent is not None and work.parent.upstreams != work.downstream.upstreams:
        raise ValueError(
            f"downstream model {work.downstream.name} has learnt to read {work.parent.upstreams}, in this order, not "
            f"{work.downstream.upstreams}; give the changed model a new name"
        )
    if work.parent is None:
        arms.start_at(positive_rate(work.lake, work.examples, work.downstream))
    else:
        arms.load(checkpoints.load(work.parent))
        predictions = arms.evaluate(_batches(work, embeddings, _EVALUATION_BATCH))
        evaluation = compare(predictions, bootstrap_seed=work.downstream.seed)
        _log(work, "eval", evaluation)
    training = compare(arms.train(_batches(work, embeddings, work.downstream.batch_size)))
    _log(work, "train", training)
    day = DownstreamDay(
        model=work.downstream.name,
        upstreams=work.downstream.upstreams,
        ds=work.ds,
        day_index=(work.ds - work.upstreams[0].schedule.start).days,
        fingerprint=work.fingerprint,
        parent_ds=work.parent.ds if work.parent else None,
        parent_fingerprint=work.parent.fingerprint if work.parent else None,
        examples=work.examples,
        embeddings=tuple(partition for partitions in work.embeddings for partition in partitions),
        num_examples=training.everyone.num_examples,
        num_users=training.everyone.num_users,
        coverage=_coverage(users, counts, dict(zip(work.downstream.upstreams, embeddings, strict=True))),
        evaluation=evaluation,
        training=training,
        seconds=time.perf_counter() - started,
        revision=0,
        path=checkpoints.folder,
    )
    return checkpoints.seal(day, arms.state())


def _users(work: _Work) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The users of the day's examples, ascending, and the number of examples of each."""
    pieces = examples_of(work.lake, work.examples, work.downstream.examples)
    found = [np.unique(piece.read([USER_ID]).column(USER_ID).to_numpy(), return_counts=True) for piece in pieces]
    users, owner = np.unique(np.concatenate([ids for ids, _ in found]), return_inverse=True)
    counts = np.bincount(owner, weights=np.concatenate([of for _, of in found]), minlength=users.size)
    return users, counts.astype(np.int64)


def _batches(work: _Work, embeddings: tuple[NewestEmbeddings, ...], batch_size: int) -> Iterator[JoinedBatch]:
    """The day's examples in the order of (seed, ds), decoded and joined ahead by the reader's thread."""
    encoder = JoiningEncoder(
        work.schema,
        task=work.downstream.task,
        features=own_features(work.downstream, work.schema),
        embeddings={SUM: SideBySide(parts=embeddings)},
    )
    seed, where = work.downstream.seed, work.downstream.examples
    reader = DayReader(work.lake, work.examples, encoder, batch_size=batch_size, seed=seed, where=where)
    return (cast(JoinedBatch, batch) for batch in reader)


def _coverage(
    users: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], embeddings: Mapping[str, NewestEmbeddings]
) -> Coverage:
    known = np.isin(users, np.concatenate([of.user_ids for of in embeddings.values()]))
    ages = np.concatenate([of.age_days for of in embeddings.values()])
    return Coverage(
        users=float(known.mean()),
        examples=float(counts[known].sum() / counts.sum()),
        mean_age_days=float(ages.mean()) if ages.size else 0.0,
        by_model={name: of.user_ids.size / users.size for name, of in embeddings.items()},
    )


def _log(work: _Work, kind: str, breakdown: Breakdown) -> None:
    result = breakdown.everyone
    low, high = result.interval or (float("nan"), float("nan"))
    log.info(
        "downstream %s model=%s ds=%s examples=%d ne_baseline=%s ne_sum=%s ne_diff=%+.3f%% [%+.3f, %+.3f]",
        kind, work.downstream.name, work.ds, result.num_examples, result.baseline.ne, result.sum.ne,
        result.ne_diff_percent, low, high,
    )  # fmt: skip
