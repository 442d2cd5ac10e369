"""The downstream model once per mode, beside the baseline: same seed and batches; only what is joined differs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.nn.functional import softplus

from features.ahead import ahead
from features.batches import Batch, Encoder
from features.columns import Ids
from features.lake import Lake, Partition
from features.reader import require_columns
from features.schema import EVENT_TIME, USER_ID, Schema
from features.windows import Windows, pieces_of
from serving.replay.requests import Requests, times_ms
from serving.replay.served import Served
from trainer.downstream.arms import Arm, Inputs, layout_of, own_features, shared_inputs, small_tables
from trainer.recipe import DownstreamRecipe
from trainer.towers import UserTower

BASELINE = "baseline"
_EVALUATION_BATCH = 8_192
_WINDOW_ROWS = 32_768
_WAITING_BATCHES = 32

Learner = Callable[[Arm, Inputs, Batch], torch.Tensor]


@dataclass(kw_only=True)
class RequestedBatch(Batch):
    """A batch that knows which request each example is of."""

    requests: Ids
    """[B]; padding is at the end, and shorter by it."""
    user_ids: Ids
    """[B]."""


class RequestEncoder(Encoder):
    """An encoder that finds each example's request."""

    def __init__(self, schema: Schema, requests: Requests, *, task: str, features: frozenset[str]) -> None:
        super().__init__(schema, tasks=(task,), features=features)
        self._requests = requests

    @property
    def columns(self) -> list[str]:
        """The columns that `encode` needs."""
        return [USER_ID, EVENT_TIME, *super().columns]

    def batches(self, rows: pa.RecordBatch | pa.Table, *, order: Ids, batch_size: int) -> Iterator[RequestedBatch]:
        """`rows` in this `order`, in batches of `batch_size`."""
        plain = super().batches(rows, order=order, batch_size=batch_size)
        users = rows.column(USER_ID).to_numpy()[order]
        places = self._requests.places(users, times_ms(rows.column(EVENT_TIME))[order])

        def cut(index: int, batch: Batch) -> RequestedBatch:
            part = slice(index * batch_size, (index + 1) * batch_size)
            return RequestedBatch(**vars(batch), requests=places[part], user_ids=users[part])

        return (cut(index, batch) for index, batch in enumerate(plain))


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Cross entropy in nats by user, summed over their examples."""

    user_ids: Ids
    """[U], ascending."""
    sums: npt.NDArray[np.float64]
    """[U, A]: baseline first, then the modes."""
    num_examples: int
    num_positives: int

    def __add__(self, other: Losses) -> Losses:
        ids = np.concatenate([self.user_ids, other.user_ids])
        return Losses.of(
            ids,
            np.concatenate([self.sums, other.sums]),
            num_examples=self.num_examples + other.num_examples,
            num_positives=self.num_positives + other.num_positives,
        )

    @classmethod
    def of(cls, user_ids: Ids, losses: npt.NDArray[np.float64], *, num_examples: int, num_positives: int) -> Losses:
        """Summed by user. losses: [N, A], of whatever stands for each user id."""
        distinct, owner = np.unique(user_ids, return_inverse=True)
        columns = [np.bincount(owner, weights=losses[:, arm]) for arm in range(losses.shape[1])]
        return cls(
            user_ids=distinct, sums=np.stack(columns, axis=1), num_examples=num_examples, num_positives=num_positives
        )


class Arms:
    """The baseline and one arm per mode, in step."""

    def __init__(self, downstream: DownstreamRecipe, schema: Schema, tower: UserTower, *, modes: Iterable[str]) -> None:
        self._downstream, self._schema = downstream, small_tables(schema)
        layout = layout_of(downstream, self._schema, tower)
        self._order = [feature.name for feature in layout.sparse]
        self._arms = {BASELINE: Arm(replace(layout, num_embeddings=0, embedding_dim=0), downstream)}
        self._arms |= {mode: Arm(layout, downstream) for mode in modes}

    def evaluate(self, lake: Lake, examples: Partition, requests: Requests, served: Mapping[str, Served]) -> Losses:
        """Predict every example with frozen weights."""
        with torch.no_grad():  # not inference_mode: the lookup kernel is registered for autograd alone
            batches = self._in_time(lake, examples, requests, size=_EVALUATION_BATCH)
            return self._pass(batches, served, lambda arm, inputs, batch: arm.predict(inputs))

    def train(self, lake: Lake, examples: Partition, requests: Requests, served: Mapping[str, Served]) -> Losses:
        """One pass in event time; the losses are from before each batch was learnt: those of a consumer that learns as
        requests come, and has seen nothing later than the batch."""
        batches = self._in_time(lake, examples, requests, size=self._downstream.batch_size)
        return self._pass(
            batches, served, lambda arm, inputs, batch: arm.learn(inputs, batch.labels[:, 0], batch.weights)
        )

    def _in_time(self, lake: Lake, examples: Partition, requests: Requests, *, size: int) -> Generator[RequestedBatch]:
        """The day's examples in their order, decoded ahead."""
        features = own_features(self._downstream, self._schema)
        encoder = RequestEncoder(self._schema, requests, task=self._downstream.task, features=features)
        dataset = lake.dataset(examples)
        require_columns(dataset, examples, encoder)
        pieces = pieces_of(dataset)
        windows, total = Windows(pieces, encoder.columns), sum(piece.num_rows for piece in pieces)
        rows = max(_WINDOW_ROWS // size, 1) * size

        def batches() -> Iterator[RequestedBatch]:
            for start in range(0, total, rows):
                window = windows.read(start, min(start + rows, total))
                yield from encoder.batches(window, order=np.arange(window.num_rows), batch_size=size)

        return ahead(batches(), waiting=_WAITING_BATCHES, name="replay-read")

    def _pass(self, batches: Generator[RequestedBatch], served: Mapping[str, Served], learner: Learner) -> Losses:
        users, losses, positives = [], [], 0
        with closing(batches):
            for batch in batches:
                logits = torch.stack(
                    [learner(arm, inputs, batch) for arm, inputs in self._inputs(batch, served)], dim=1
                )
                real = len(batch.user_ids)
                labels = batch.labels[:real].double()  # [B, 1]
                logits = logits.detach()[:real].double()
                losses.append((softplus(logits) - labels * logits).numpy())
                users.append(batch.user_ids)
                positives += int(labels.sum())
        ids = np.concatenate(users)
        return Losses.of(ids, np.concatenate(losses), num_examples=len(ids), num_positives=positives)

    def _inputs(self, batch: RequestedBatch, served: Mapping[str, Served]) -> Iterator[tuple[Arm, Inputs]]:
        sparse, dense = shared_inputs(batch, self._order)
        nothing = Inputs(sparse=sparse, dense=dense, users=torch.empty(0), has_embedding=torch.zeros(len(dense)))
        yield self._arms[BASELINE], nothing
        for mode, arm in self._arms.items():
            if mode != BASELINE:
                users, has_embedding = served[mode].pooled(batch.requests)
                yield arm, replace(nothing, users=_padded(users, dense), has_embedding=_padded(has_embedding, dense))


def _padded(rows: npt.NDArray[np.generic], dense: torch.Tensor) -> torch.Tensor:
    padded = np.zeros((len(dense), *rows.shape[1:]), dtype=np.float32)
    padded[: len(rows)] = rows
    return torch.from_numpy(padded)
