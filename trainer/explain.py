"""`usermodel trainer explain`: which features a user model predicts from (section 6.1.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import NamedTuple

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batches import Batch, Encoder
from features.lake import Lake
from features.schema import SIDES, Schema, Side
from infra.settings import Settings
from trainer.identities import read_maps
from trainer.importance import Feature, Ranking, measure
from trainer.model.sum_model import SumModel
from trainer.recipe import Recipe
from trainer.sample import chunks_of, permute_dense, permute_sparse, sample_rows
from trainer.trained import TrainedDay, load_model, newest_before, on_disk

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The importance of every feature of a model on a day that the model has not learnt."""

    model: str
    ds: date
    """The day whose examples were scored."""
    scored_ds: date
    """The newest day that the scored model has learnt, before `ds`."""
    scored_fingerprint: str
    num_rows: int
    repeats: int
    seed: int
    rankings: tuple[Ranking, ...]
    """One per task."""
    seconds: float


def check_repeats(repeats: int) -> None:
    """ValueError unless the feature is permuted at least once."""
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; a feature is permuted at least once")


def explain(recipe: Recipe, ds: date, *, settings: Settings, rows: int, repeats: int, seed: int = 0) -> Explanation:
    """Score `rows` examples of `ds` with the newest model of a day before, once per feature and repeat.

    MissingPartitionError: no examples of the day. ValueError: no day before it is trained.
    """
    started = time.monotonic()
    check_repeats(repeats)
    lake = Lake(settings.lake)
    partition = lake.get(f"examples/{recipe.source.name}", ds)
    trained = _model_before(settings, recipe.name, ds)
    tasks = tuple(task.name for task in recipe.tasks)
    encoder = Encoder(recipe.schema, tasks=tasks, maps=read_maps(trained.path, recipe.schema))
    sample = sample_rows(lake, partition, columns=encoder.columns, num_rows=rows, seed=seed, where=recipe.examples)
    batches = [encoder.encode(chunk) for chunk in chunks_of(sample)]
    log.info("explaining model=%s of ds=%s on ds=%s examples=%d", recipe.name, trained.ds, ds, sample.num_rows)
    subject = UserModel(load_model(recipe, trained), recipe.schema, tasks=tasks, batches=batches)
    rankings = measure(subject, repeats=repeats, seed=seed)
    return Explanation(
        model=recipe.name,
        ds=ds,
        scored_ds=trained.ds,
        scored_fingerprint=trained.fingerprint,
        num_rows=sample.num_rows,
        repeats=repeats,
        seed=seed,
        rankings=rankings,
        seconds=round(time.monotonic() - started, 3),
    )


def _model_before(settings: Settings, model: str, ds: date) -> TrainedDay:
    trained = newest_before(settings, model, ds)
    if trained is None:
        raise ValueError(
            f"{model} is trained on no day before {ds}; importance is measured on a day that the model has not "
            "learnt. Train a day before it first, or explain a later day"
        )
    return on_disk(settings, trained)


class UserModel:
    """A `Subject`: the user model, unsharded, and its sample."""

    def __init__(self, model: SumModel, schema: Schema, *, tasks: tuple[str, ...], batches: Sequence[Batch]) -> None:
        self.tasks = tasks
        self.labels = torch.cat([batch.labels for batch in batches])
        self.features = [feature for side in SIDES for feature in features_of(schema, side)]
        self._dense = {side: [feature.name for feature in schema.dense_of(side)] for side in SIDES}
        self._model = model
        self._users = _Inputs([b.user_sparse for b in batches], [b.user_dense for b in batches])
        self._items = _Inputs([b.item_sparse for b in batches], [b.item_dense for b in batches])

    @torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
    def logits(self, feature: Feature | None, order: torch.Tensor) -> torch.Tensor:
        """[N, T]; a permuted item-side feature leaves the user embeddings as they are."""
        embeddings, items = self._embeddings, self._items
        if feature is not None and feature.side == "user":
            embeddings = self._embed(self._permuted(self._users, feature, order))
        elif feature is not None:
            items = self._permuted(items, feature, order)
        scored = zip(embeddings, items.sparse, items.dense, strict=True)
        return torch.cat([self._model.mix_tower(*chunk) for chunk in scored])

    @cached_property
    def _embeddings(self) -> list[torch.Tensor]:
        return self._embed(self._users)

    def _embed(self, users: _Inputs) -> list[torch.Tensor]:
        """[B, K, D] of each chunk."""
        return [self._model.user_tower(*chunk) for chunk in zip(users.sparse, users.dense, strict=True)]

    def _permuted(self, inputs: _Inputs, feature: Feature, order: torch.Tensor) -> _Inputs:
        if feature.kind == "sparse":
            return _Inputs(permute_sparse(inputs.sparse, feature.name, order), inputs.dense)
        column = self._dense["user" if feature.side == "user" else "item"].index(feature.name)
        return _Inputs(inputs.sparse, permute_dense(inputs.dense, column, order))


class _Inputs(NamedTuple):
    """One side's, by chunk."""

    sparse: list[KeyedJaggedTensor]
    dense: list[torch.Tensor]
    """[B, M]."""


def features_of(schema: Schema, side: Side) -> list[Feature]:
    """The features of one side, in schema order."""
    return [
        *(Feature(name=feature.name, side=side, kind="sparse") for feature in schema.sparse_of(side)),
        *(Feature(name=feature.name, side=side, kind="dense") for feature in schema.dense_of(side)),
    ]
