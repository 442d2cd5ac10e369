"""Arms: the same model, seed, batches and order, without user embeddings and with them; any number of them in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
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

BASELINE = "baseline"
SUM = "sum"
TEACHER = "teacher"
"""What distilled arms learn from: joined to batches under this name, as vectors [B, 1, 1] of logits."""
Shape = tuple[int, int]
"""(K, D) of a user model's embeddings."""
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
            f"{', '.join(downstream.upstreams)}; known: {sorted(users)}"
        )
    features = frozenset(_names(schema, "item") | set(downstream.user_features))
    if not any(f.name in features for f in schema.sparse):
        raise ValueError(
            f"downstream model {downstream.name} has no sparse feature; name some in user_features: {sorted(users)}"
        )
    return features


def _names(schema: Schema, side: Side) -> set[str]:
    return {f.name for f in schema.sparse_of(side)} | {f.name for f in schema.dense_of(side)}


def shape_of(tower: UserTower) -> Shape:
    """Of the embeddings that the tower gives."""
    return tower.num_embeddings, tower.dim


def layout_of(downstream: DownstreamRecipe, schema: Schema, shapes: Sequence[Shape] = ()) -> Layout:
    """The layout of an arm that takes the embeddings of user models of these shapes; `schema` has the small tables."""
    features = own_features(downstream, schema)
    tables = [t for t in schema.tables if any(f.table == t.name and f.name in features for f in schema.sparse)]
    return Layout(
        tables=tuple(tables),
        sparse=tuple(f for t in tables for f in schema.sparse if f.table == t.name and f.name in features),
        num_dense=sum(f.name in features for f in schema.dense),
        dim=downstream.embedding_dim,
        hidden=downstream.hidden,
        num_embeddings=sum(num for num, _ in shapes),
        embedding_dim=max((dim for _, dim in shapes), default=0),
        num_upstreams=len(shapes),
    )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an arm is given: users [B, K, D], has_embedding [B, U]; the features are made once per batch."""

    sparse: KeyedJaggedTensor
    dense: torch.Tensor
    users: torch.Tensor
    has_embedding: torch.Tensor
    taught: torch.Tensor | None = None
    """[B]: a teacher's logits, for an arm that is distilled."""


class Arm:
    """A model, its optimizers, and their state as named tensors. distillation: the weight of the cross entropy towards
    what a teacher says, beside that towards the labels."""

    def __init__(self, layout: Layout, downstream: DownstreamRecipe, *, distillation: float = 0.0) -> None:
        optimizer = downstream.optimizer
        self._distillation = distillation
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
        if inputs.taught is not None:
            soft = nn.functional.binary_cross_entropy_with_logits(logits, inputs.taught.sigmoid(), reduction="none")
            losses = losses + self._distillation * soft
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


class Arms:
    """Arms by name, in step."""

    def __init__(
        self,
        downstream: DownstreamRecipe,
        schema: Schema,
        shapes: Mapping[str, Sequence[Shape]],
        *,
        distilled: Mapping[str, float] | None = None,
    ) -> None:
        """shapes: by arm, of the user models whose embeddings it takes; none for the baseline. `schema` has the small
        tables. distilled: the weights of arms that learn from the TEACHER of every batch too; predictions need none.
        """
        self._distilled = dict(distilled or {})
        layouts = {name: layout_of(downstream, schema, of) for name, of in shapes.items()}
        self._order = [feature.name for feature in layout_of(downstream, schema).sparse]
        self.arms = {
            name: Arm(layout, downstream, distillation=self._distilled.get(name, 0.0))
            for name, layout in layouts.items()
        }

    def start_at(self, rate: float) -> None:
        """Begin with predictions about the rate of positives. From 0.5 on, an arm learns the rate first, and the sooner
        the more inputs it has: its first days would show a gain that has nothing to do with users."""
        for arm in self.arms.values():
            arm.model.start_at(rate)

    def state(self) -> dict[str, torch.Tensor]:
        """The state of all arms, names prefixed by the arm's."""
        return {f"{name}.{key}": value for name, arm in self.arms.items() for key, value in arm.state().items()}

    def load(self, stored: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave."""
        for name, arm in self.arms.items():
            prefix = f"{name}."
            arm.load({key.removeprefix(prefix): v for key, v in stored.items() if key.startswith(prefix)})

    @torch.no_grad()  # not inference_mode: the lookup kernel is registered for autograd alone
    def evaluate(self, batches: Iterable[JoinedBatch]) -> Predictions:
        """Predict every example with frozen weights."""
        return _collect(
            (batch, {name: self.arms[name].predict(inputs) for name, inputs in self.inputs(batch)}) for batch in batches
        )

    def train(self, batches: Iterable[JoinedBatch]) -> Predictions:
        """One pass; the predictions are from before each batch was learnt (progressive)."""

        def steps() -> Iterator[tuple[JoinedBatch, dict[str, torch.Tensor]]]:
            for step, batch in enumerate(batches):
                labels = batch.labels[:, 0]
                try:
                    logits = {
                        name: self.arms[name].learn(inputs, labels, batch.weights)
                        for name, inputs in self.inputs(batch)
                    }
                except FloatingPointError as error:
                    raise FloatingPointError(f"batch {step}: {error}; nothing was published") from error
                yield batch, logits

        return _collect(steps())

    def inputs(self, batch: JoinedBatch) -> Iterator[tuple[str, Inputs]]:
        """What each arm takes of a batch."""
        sparse, dense = shared_inputs(batch, self._order)
        nothing = torch.empty(len(dense), 0, 0), torch.empty(len(dense), 0)
        for name in self.arms:
            users, has_embedding = batch.joined.get(name, nothing)
            taught = batch.joined[TEACHER][0].flatten() if name in self._distilled and TEACHER in batch.joined else None
            yield name, Inputs(sparse=sparse, dense=dense, users=users, has_embedding=has_embedding, taught=taught)


def with_and_without(downstream: DownstreamRecipe, schema: Schema, shapes: Sequence[Shape]) -> Arms:
    """The arms of the daily retraining: `baseline`, and `sum` with the embeddings of all its user models."""
    return Arms(downstream, schema, {BASELINE: (), SUM: shapes})


def shared_inputs(batch: Batch, order: Sequence[str]) -> tuple[KeyedJaggedTensor, torch.Tensor]:
    """The features of both sides that every arm takes: the sparse ones in this order, the dense ones [B, M]."""
    sparse = [kjt for kjt in (batch.user_sparse, batch.item_sparse) if kjt.keys()]
    joined = sparse[0] if len(sparse) == 1 else KeyedJaggedTensor.concat(sparse)
    keys = joined.keys()
    if keys != list(order):
        joined = joined.permute([keys.index(name) for name in order])
    return joined, torch.cat([batch.user_dense, batch.item_dense], dim=1)


def _collect(steps: Iterable[tuple[JoinedBatch, dict[str, torch.Tensor]]]) -> Predictions:
    """The predictions of all examples, without padding."""
    users, known, labels = [], [], []
    logits: dict[str, list[torch.Tensor]] = {}
    for batch, of_arms in steps:
        real = len(batch.user_ids)  # padding is at the end
        users.append(batch.user_ids)
        flags = torch.cat([batch.labels.new_zeros(len(batch.labels), 1), *(f for _, f in batch.joined.values())], dim=1)
        known.append((flags[:real] > 0).any(dim=1))
        labels.append(batch.labels[:real, 0])
        for name, of in of_arms.items():
            logits.setdefault(name, []).append(of[:real])
    return Predictions(
        user_ids=np.concatenate(users),
        has_embedding=torch.cat(known),
        labels=torch.cat(labels),
        logits={name: torch.cat(of) for name, of in logits.items()},
    )
