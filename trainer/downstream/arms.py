"""The two arms: the same model, seed, batches and order, without the user embeddings and with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batches import Batch
from features.schema import Schema, Side, Table
from trainer.downstream.dlrm import Dlrm, Layout
from trainer.downstream.joined import JoinedBatch
from trainer.downstream.scores import Predictions
from trainer.recipe import DownstreamRecipe
from trainer.towers import UserTower

Name = Literal["baseline", "sum"]
NAMES: tuple[Name, ...] = get_args(Name)
ROWS_MAX = 50_000
"""A downstream model's own tables are small: ids land in at most this many rows."""


def small_tables(schema: Schema) -> Schema:
    """`schema` with the tables of a downstream model, hashed."""
    return replace(
        schema,
        tables=tuple(Table(name=table.name, num_rows=min(table.num_rows, ROWS_MAX)) for table in schema.tables),
    )


def own_features(downstream: DownstreamRecipe, schema: Schema) -> frozenset[str]:
    """The names of its features: the item side whole and the user features it names.

    ValueError for a name that is no user-side feature, and where no sparse feature is left.
    """
    users = _names(schema, "user")
    unknown = sorted(set(downstream.user_features) - users)
    if unknown:
        raise ValueError(
            f"downstream model {downstream.name}: {unknown} are no user-side features of "
            f"{downstream.upstream}; known: {sorted(users)}"
        )
    features = frozenset(_names(schema, "item") | set(downstream.user_features))
    if not any(f.name in features for f in schema.sparse):
        raise ValueError(
            f"downstream model {downstream.name} has no sparse feature; name some in user_features: {sorted(users)}"
        )
    return features


def _names(schema: Schema, side: Side) -> set[str]:
    return {f.name for f in schema.sparse_of(side)} | {f.name for f in schema.dense_of(side)}


def layout_of(downstream: DownstreamRecipe, schema: Schema, user_tower: UserTower) -> Layout:
    """The layout of the arm with embeddings; `schema` has the small tables."""
    features = own_features(downstream, schema)
    tables = [t for t in schema.tables if any(f.table == t.name and f.name in features for f in schema.sparse)]
    return Layout(
        tables=tuple(tables),
        sparse=tuple(f for t in tables for f in schema.sparse if f.table == t.name and f.name in features),
        num_dense=sum(f.name in features for f in schema.dense),
        dim=downstream.embedding_dim,
        hidden=downstream.hidden,
        num_embeddings=user_tower.num_embeddings,
        embedding_dim=user_tower.dim,
    )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What both arms are given, made once per batch."""

    sparse: KeyedJaggedTensor
    dense: torch.Tensor
    users: torch.Tensor
    has_embedding: torch.Tensor


class Arm:
    """A model, its optimizers, and their state as named tensors."""

    def __init__(self, layout: Layout, downstream: DownstreamRecipe) -> None:
        optimizer = downstream.optimizer
        self.model = Dlrm(layout, optimizer=optimizer, seed=downstream.seed)
        self._dense = {n: p for n, p in self.model.named_parameters() if not n.startswith("tables.")}
        self._adam = torch.optim.Adam(self._dense.values(), lr=optimizer.dense_lr, eps=optimizer.epsilon, fused=True)
        for parameter in self._dense.values():
            self._adam.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def predict(self, inputs: Inputs) -> torch.Tensor:
        """Logits [B]."""
        logits: torch.Tensor = self.model(inputs.sparse, inputs.dense, inputs.users, inputs.has_embedding)
        return logits

    def learn(self, inputs: Inputs, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """One step on the mean cross entropy; returns the logits [B] from before it.

        FloatingPointError, before anything is learnt, where the loss is not finite.
        """
        logits = self.predict(inputs)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = torch.dot(losses, weights) / weights.sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}")
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return logits.detach()

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer state by name: the live tensors, not copies."""
        named = {f"weights.{name}": parameter.detach() for name, parameter in self._dense.items()}
        for name, parameter in self._dense.items():
            named |= {f"adam.{name}.{key}": value for key, value in self._adam.state[parameter].items()}
        tables = self.model.tables
        states = tables.split_optimizer_states()  # a list of one tensor per table: the row-wise momentum
        for table, rows, (momentum,) in zip(
            self.model.layout.tables, tables.split_embedding_weights(), states, strict=True
        ):
            named[f"tables.{table.name}"] = rows.detach()
            named[f"adagrad.{table.name}"] = momentum.detach()
        return named

    @torch.no_grad()
    def load(self, stored: dict[str, torch.Tensor]) -> None:
        """Take over `stored`, a state of the same names and shapes; ValueError names what differs."""
        state = self.state()
        differing = sorted(
            name
            for name in state.keys() | stored.keys()
            if name not in state or name not in stored or state[name].shape != stored[name].shape
        )
        if differing:
            raise ValueError(
                f"{differing[:5]} differ from the stored model's: a changed model cannot go on from the old "
                "weights; give it a new name"
            )
        for name, value in stored.items():
            state[name].copy_(value)


class Pair:
    """Both arms, in step."""

    def __init__(self, downstream: DownstreamRecipe, schema: Schema, user_tower: UserTower) -> None:
        layout = layout_of(downstream, schema, user_tower)
        self._order = [feature.name for feature in layout.sparse]
        self.arms: dict[Name, Arm] = {
            "baseline": Arm(replace(layout, num_embeddings=0, embedding_dim=0), downstream),
            "sum": Arm(layout, downstream),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """The state of both arms, names prefixed by the arm's."""
        return {f"{arm}.{name}": value for arm in NAMES for name, value in self.arms[arm].state().items()}

    def load(self, stored: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave."""
        for arm in NAMES:
            prefix = f"{arm}."
            own = {name.removeprefix(prefix): v for name, v in stored.items() if name.startswith(prefix)}
            self.arms[arm].load(own)

    @torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
    def evaluate(self, batches: Iterable[JoinedBatch]) -> Predictions:
        """Predict every example with frozen weights."""
        return _collect((batch, *self._predict(self.inputs(batch))) for batch in batches)

    def train(self, batches: Iterable[JoinedBatch]) -> Predictions:
        """One pass; the predictions are from before each batch was learnt (progressive)."""

        def steps() -> Iterator[tuple[JoinedBatch, torch.Tensor, torch.Tensor]]:
            for step, batch in enumerate(batches):
                inputs, labels = self.inputs(batch), batch.labels[:, 0]
                try:
                    baseline, with_sum = (self.arms[arm].learn(inputs, labels, batch.weights) for arm in NAMES)
                except FloatingPointError as error:
                    raise FloatingPointError(f"batch {step}: {error}; nothing was published") from error
                yield batch, baseline, with_sum

        return _collect(steps())

    def _predict(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        return self.arms["baseline"].predict(inputs), self.arms["sum"].predict(inputs)

    def inputs(self, batch: JoinedBatch) -> Inputs:
        """What the arms take of a batch."""
        sparse, dense = shared_inputs(batch, self._order)
        return Inputs(sparse=sparse, dense=dense, users=batch.users, has_embedding=batch.has_embedding)


def shared_inputs(batch: Batch, order: Sequence[str]) -> tuple[KeyedJaggedTensor, torch.Tensor]:
    """The features of both sides that every arm takes: the sparse ones in this order, the dense ones [B, M]."""
    sparse = [kjt for kjt in (batch.user_sparse, batch.item_sparse) if kjt.keys()]
    joined = sparse[0] if len(sparse) == 1 else KeyedJaggedTensor.concat(sparse)
    keys = joined.keys()
    if keys != list(order):
        joined = joined.permute([keys.index(name) for name in order])
    return joined, torch.cat([batch.user_dense, batch.item_dense], dim=1)


def _collect(steps: Iterable[tuple[JoinedBatch, torch.Tensor, torch.Tensor]]) -> Predictions:
    """The predictions of all examples, without padding."""
    columns: tuple[list[torch.Tensor], ...] = ([], [], [], [], [])
    for batch, baseline, with_sum in steps:
        real = int(batch.weights.sum())  # padding is at the end
        for column, values in zip(
            columns,
            (batch.user_ids, batch.has_embedding, batch.labels[:, 0], baseline, with_sum),
            strict=True,
        ):
            column.append(values[:real])
    user_ids, has_embedding, labels, baseline, with_sum = (torch.cat(column) for column in columns)
    return Predictions(user_ids=user_ids, has_embedding=has_embedding, labels=labels, baseline=baseline, sum=with_sum)
