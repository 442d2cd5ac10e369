"""`usermodel trainer explain --downstream`: where the user embeddings rank among a consumer's features.

Section 6.1.2 and the column FI of Table 1: each of the K user embeddings is ranked among the model's own
features, and all of them together in place of the single ones; of several user models, also those of each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import cast

import torch

from features.batches import Encoder
from features.lake import Lake, Partition
from features.schema import SIDES, USER_ID, Schema
from infra.settings import Settings
from trainer.downstream.arms import SUM, Arms, Inputs, own_features, shape_of, small_tables, with_and_without
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, SideBySide, join_upstreams, usable_of
from trainer.explain import Explanation, check_repeats, features_of
from trainer.importance import Feature, measure
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.sample import chunks_of, permute_dense, permute_sparse, sample_rows

log = logging.getLogger(__name__)

TOGETHER = "user_embeddings"
"""All at once, with the flags that say whether a user has any; after a user model's name and a dot, all of that one."""


def explain_downstream(
    downstream: DownstreamRecipe,
    upstreams: Sequence[Recipe],
    ds: date,
    *,
    settings: Settings,
    promoted: Mapping[str, Sequence[Partition]],
    rows: int,
    repeats: int,
    seed: int = 0,
) -> Explanation:
    """As `trainer.explain.explain`, of the arm with embeddings, which are joined as of the day before `ds`.

    ValueError: the model is trained on no day before; NoEmbeddingsError: nothing to join.
    """
    started = time.monotonic()
    check_repeats(repeats)
    lake = Lake(settings.lake)
    source = upstreams[0].source
    examples = lake.get(f"examples/{source.name}", ds)
    embeddings = usable_of(downstream, ds, promoted=promoted)
    schema = small_tables(source.schema)
    checkpoints = Checkpoints(settings, downstream.name)
    parent = _model_before(checkpoints, downstream.name, ds)
    arms = with_and_without(downstream, schema, [shape_of(upstream.user_tower) for upstream in upstreams])
    arms.load(checkpoints.load(parent))
    own = own_features(downstream, schema)
    columns = [USER_ID, *Encoder(schema, tasks=(downstream.task,), features=own).columns]
    sample = sample_rows(lake, examples, columns=columns, num_rows=rows, seed=seed, where=downstream.examples)
    users = sample.column(USER_ID).to_numpy()
    joined = join_upstreams(lake, upstreams, embeddings, ds=ds, users=users)
    encoder = JoiningEncoder(schema, task=downstream.task, features=own, embeddings={SUM: SideBySide(parts=joined)})
    log.info("explaining model=%s of ds=%s on ds=%s examples=%d", parent.model, parent.ds, ds, sample.num_rows)
    batches = [cast(JoinedBatch, encoder.encode(chunk)) for chunk in chunks_of(sample)]
    sizes = {upstream.name: upstream.user_tower.num_embeddings for upstream in upstreams}
    subject = Consumer(arms, own_of(schema, own), task=downstream.task, batches=batches, num_embeddings=sizes)
    rankings = measure(subject, repeats=repeats, seed=seed)
    return Explanation(
        model=downstream.name,
        ds=ds,
        scored_ds=parent.ds,
        scored_fingerprint=parent.fingerprint,
        num_rows=sample.num_rows,
        repeats=repeats,
        seed=seed,
        rankings=rankings,
        seconds=round(time.monotonic() - started, 3),
    )


def _model_before(checkpoints: Checkpoints, name: str, ds: date) -> DownstreamDay:
    parent = checkpoints.before(ds)
    if parent is None:
        raise ValueError(
            f"downstream model {name} is trained on no day before {ds}; importance is measured on a day that the "
            "model has not learnt. Train a day before it first, or explain a later day"
        )
    return parent


def own_of(schema: Schema, names: frozenset[str]) -> list[Feature]:
    """Of the features of both sides, those of these names, in the order of a consumer's inputs."""
    return [feature for side in SIDES for feature in features_of(schema, side) if feature.name in names]


class Consumer:
    """A `Subject`: an arm with embeddings, and its sample."""

    def __init__(
        self,
        arms: Arms,
        own: Sequence[Feature],
        *,
        task: str,
        batches: Sequence[JoinedBatch],
        num_embeddings: Mapping[str, int],
        arm: str = SUM,
    ) -> None:
        """num_embeddings: K of each user model, in the order in which they are joined."""
        self.tasks = (task,)
        self.labels = torch.cat([batch.labels for batch in batches])
        self._arm = arms.arms[arm]
        self._inputs = [dict(arms.inputs(batch))[arm] for batch in batches]
        self._dense = [
            feature.name for feature in own if feature.kind == "dense"
        ]  # user side first, as `inputs` has it
        self._users = torch.cat([inputs.users for inputs in self._inputs])  # [N, K, D]
        self._has_embedding = torch.cat([inputs.has_embedding for inputs in self._inputs])  # [N, U]
        joined, self._places = _embeddings(num_embeddings)
        self.features = [*own, *joined]

    @torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
    def logits(self, feature: Feature | None, order: torch.Tensor) -> torch.Tensor:
        """[N, 1]."""
        inputs = self._inputs if feature is None else self._permuted(feature, order)
        return torch.cat([self._arm.predict(chunk) for chunk in inputs]).unsqueeze(1)

    def _permuted(self, feature: Feature, order: torch.Tensor) -> list[Inputs]:
        if feature.kind == "embedding":
            return self._permuted_embeddings(feature, order)
        if feature.kind == "sparse":
            sparse = permute_sparse([inputs.sparse for inputs in self._inputs], feature.name, order)
            return [replace(inputs, sparse=of) for inputs, of in zip(self._inputs, sparse, strict=True)]
        dense = permute_dense([inputs.dense for inputs in self._inputs], self._dense.index(feature.name), order)
        return [replace(inputs, dense=of) for inputs, of in zip(self._inputs, dense, strict=True)]

    def _permuted_embeddings(self, feature: Feature, order: torch.Tensor) -> list[Inputs]:
        """One embedding goes round among the examples that have one, so that the flag stays true; all of them (of a
        user model, or of all) together, with the flag, among all examples."""
        users, has_embedding = self._users.clone(), self._has_embedding.clone()
        place = self._places[feature.name]
        if feature.members:
            users[:, place.vectors] = users[order][:, place.vectors]
            has_embedding[:, place.flags] = has_embedding[order][:, place.flags]
        else:
            known = users[:, place.vectors].flatten(1).any(dim=1)
            users[known, place.vectors] = self._users[order[known[order]], place.vectors]
        sizes = [len(inputs.users) for inputs in self._inputs]
        parts = zip(self._inputs, torch.split(users, sizes), torch.split(has_embedding, sizes), strict=True)
        return [replace(inputs, users=of, has_embedding=flag) for inputs, of, flag in parts]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an embedding, or several, stand among the joined ones: along K, and along U."""

    vectors: slice
    flags: slice


def _embeddings(num_embeddings: Mapping[str, int]) -> tuple[list[Feature], dict[str, _Place]]:
    """Every embedding, those of each user model where there are several, and all; and where each stands."""
    features: list[Feature] = []
    places: dict[str, _Place] = {}
    several, first = len(num_embeddings) > 1, 0
    everything: list[str] = []

    def add(name: str, vectors: slice, flags: slice, members: Sequence[str] = ()) -> None:
        features.append(Feature(name=name, side="user", kind="embedding", members=tuple(members)))
        places[name] = _Place(vectors=vectors, flags=flags)

    for index, (model, num) in enumerate(num_embeddings.items()):
        prefix, flag = f"{model}." if several else "", slice(index, index + 1)
        single = [f"{prefix}user_embedding_{k}" for k in range(num)]
        for k, name in enumerate(single):
            add(name, slice(first + k, first + k + 1), flag)
        if several:
            add(f"{prefix}{TOGETHER}", slice(first, first + num), flag, single)
        everything += single
        first += num
    add(TOGETHER, slice(0, first), slice(0, len(num_embeddings)), everything)
    return features, places
