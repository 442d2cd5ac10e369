"""`usermodel snapshots compare A B`: everything in which two versions of a model differ, B - A."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from features.batches import Batch
from features.lake import Lake
from infra.settings import Settings
from snapshots.compare.differences import Changed, differences
from snapshots.compare.features import Swapped, swap_features
from snapshots.compare.resolve import resolve_pair
from snapshots.compare.sample import Sample, draw
from snapshots.compare.scores import Difference, Scored, score
from snapshots.compare.subject import NotLoadableError, Subject, trained_day
from snapshots.embedder import one_thread
from snapshots.movement import movement
from snapshots.registry import Registry, Version
from snapshots.runs import artifact_page, links_of, log_text
from snapshots.shift.pair import compared
from snapshots.shift.rows import ShiftRow
from snapshots.shift.same_inputs import same_inputs
from snapshots.summary import Summarised
from trainer.sample import CHUNK_ROWS
from trainer.trained import TrainedDay

if TYPE_CHECKING:
    import torch

    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

ROWS = 20_000
"""Examples that are scored, unless told otherwise."""
FEATURE_CHUNKS = 2
"""Of those, the chunks of CHUNK_ROWS that features are swapped on."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two versions."""

    number: int
    ds: date
    fingerprint: str
    decision: str
    metrics: dict[str, dict[str, float | None]]
    """Progressive, each on its own day: of different examples."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far apart the two take the same users, of one slice."""

    users: str
    embedding: int
    num_users: int
    cosine_mean: float
    norm_change_mean: float


@dataclass(frozen=True, kw_only=True)
class On:
    """What both were scored on."""

    ds: date
    held_out: bool
    num_examples: int
    num_users: int
    num_feature_examples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Comparison(Summarised):
    """All of it. What could not be compared is empty, and `notes` say why."""

    model: str
    a: Side
    b: Side
    on: On | None
    scores: tuple[Difference, ...]
    moved: tuple[Moved, ...]
    """By slice, on the scored examples' users."""
    shift: tuple[ShiftRow, ...]
    """On the active users of B's day, by both sealed snapshots."""
    features: tuple[Swapped, ...]
    changed: tuple[Changed, ...]
    notes: tuple[str, ...]
    page: str = ""
    """Where MLflow shows it with plots."""


def compare(recipe: Recipe, a: str, b: str, *, settings: Settings, rows: int = ROWS, seed: int = 0) -> Comparison:
    """Compare the versions that `a` and `b` name (a number, a day, an alias); the page goes to B's run in MLflow.

    The same versions, rows and seed give the same numbers. ValueError for a version that there is not.
    """
    if rows < 1:
        raise ValueError(f"{rows} rows are to be scored; give at least one (--rows)")
    registry, lake = Registry(settings), Lake(settings.lake)
    first, second = resolve_pair(registry, recipe.name, a, b)
    notes: list[str] = []
    trained = (_trained(first, settings, notes), _trained(second, settings, notes))
    found = Comparison(
        model=recipe.name,
        a=_side(first),
        b=_side(second),
        on=None,
        scores=(),
        moved=(),
        shift=_shift(recipe, first, second, registry=registry, lake=lake, notes=notes),
        features=(),
        changed=differences(first, second, trained=trained),
        notes=(),
    )
    with one_thread():
        found = _on_examples(recipe, found, (first, second), trained, lake=lake, rows=rows, seed=seed, notes=notes)
    return _kept(replace(found, notes=tuple(notes)), second, registry)


def _side(version: Version) -> Side:
    return Side(
        number=version.number,
        ds=version.ds,
        fingerprint=version.fingerprint,
        decision=version.decision,
        metrics=version.metrics,
    )


def _trained(version: Version, settings: Settings, notes: list[str]) -> TrainedDay | None:
    try:
        return trained_day(version, settings)
    except NotLoadableError as error:
        notes.append(f"{error}: no scores, no effect of features; what its snapshot tells is compared")
        return None


def _shift(
    recipe: Recipe, a: Version, b: Version, *, registry: Registry, lake: Lake, notes: list[str]
) -> tuple[ShiftRow, ...]:
    try:
        pair = replace(compared(recipe, b.ds, registry=registry, lake=lake), version=b, parent=a)
        rows = tuple(same_inputs(recipe, pair, lake))
    except (OSError, ValueError) as error:
        notes.append(f"the shift cannot be measured: {error}")
        return ()
    notes += [f"the shift cannot be measured: {row.note}" for row in rows if row.note and not row.value]
    return rows


def _on_examples(
    recipe: Recipe,
    found: Comparison,
    versions: tuple[Version, Version],
    trained: tuple[TrainedDay | None, TrainedDay | None],
    *,
    lake: Lake,
    rows: int,
    seed: int,
    notes: list[str],
) -> Comparison:
    """`found` with what takes the models themselves: scores, movement by slice, features."""
    if trained[0] is None or trained[1] is None:
        return found
    try:
        a, b = Subject.load(versions[0], trained[0]), Subject.load(versions[1], trained[1])
        sample = draw(recipe, a, b, lake=lake, num_rows=rows, seed=seed)
    except NotLoadableError as error:
        notes.append(f"no scores: {error}")
        return found
    if not sample.held_out:
        notes.append(
            f"there are no examples after {sample.ds}, which the newer version has learnt: its scores are flattered"
        )
    if any("alignment" in version.tags for version in versions):
        notes.append(
            "a version is aligned after its training: features and slices are compared in the space that was learnt, "
            "the shift of active users in the one that consumers read"
        )
    of_a, of_b = a.encode(sample.chunks), b.encode(sample.chunks)
    users_a, users_b = a.embed(of_a), b.embed(of_b)
    head = slice(FEATURE_CHUNKS)
    features = swap_features(a, b, of_a[head], of_b[head])
    if not features:
        notes.append("the towers give other embeddings: their features' effects and their shift are not compared")
    return replace(
        found,
        on=On(
            ds=sample.ds,
            held_out=sample.held_out,
            num_examples=len(sample.user_ids),
            num_users=len(np.unique(sample.user_ids)),
            num_feature_examples=min(len(sample.user_ids), FEATURE_CHUNKS * CHUNK_ROWS),
            seed=seed,
        ),
        scores=tuple(_scores(a, b, a.logits(users_a, of_a), b.logits(users_b, of_b), of_a, sample, seed=seed)),
        moved=tuple(_moved(users_a, users_b, sample)) if users_a.shape == users_b.shape else (),
        features=features,
    )


def _scores(
    a: Subject,
    b: Subject,
    logits_a: torch.Tensor,
    logits_b: torch.Tensor,
    batches: Sequence[Batch],
    sample: Sample,
    *,
    seed: int,
) -> Iterator[Difference]:
    """Of the tasks that both have."""
    labels = np.concatenate([batch.labels.numpy() for batch in batches])  # [N, T] of A's tasks
    for task in a.tasks:
        if task not in b.tasks:
            continue
        scored = Scored(
            user_ids=sample.user_ids,
            labels=labels[:, a.tasks.index(task)].astype(np.float64),
            a=logits_a[:, a.tasks.index(task)].double().numpy(),
            b=logits_b[:, b.tasks.index(task)].double().numpy(),
        )
        yield from score(task, scored, sample.slices, seed=seed)


def _moved(a: torch.Tensor, b: torch.Tensor, sample: Sample) -> Iterator[Moved]:
    """Each user once, as of its first sampled example; a, b [N, K, D]."""
    _, first = np.unique(sample.user_ids, return_index=True)
    for users, mask in sample.slices.items():
        rows = first[mask[first]]
        for k in range(a.shape[1]):
            found = movement(a[rows, k].numpy(), b[rows, k].numpy())
            yield Moved(
                users=users,
                embedding=k,
                num_users=found.num_users,
                cosine_mean=float(found.cosine.mean()),
                norm_change_mean=float(found.norm_change.mean()),
            )


def _kept(found: Comparison, b: Version, registry: Registry) -> Comparison:
    from snapshots.compare.html import render_page

    path = f"compare/{found.a.number}-{found.b.number}.html"
    page = artifact_page(links_of(registry, b), path)
    log_text(registry, b, render_page(found), path)
    log.info("compared model=%s versions=%d,%d run=%s %s", found.model, found.a.number, found.b.number, b.run_id, path)
    return replace(found, page=page or f"artifact {path} of MLflow run {b.run_id}")
