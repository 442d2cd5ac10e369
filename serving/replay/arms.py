"""The downstream model's arms over a day in event time, one per mode beside the baseline: what was served is joined."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.ahead import ahead
from features.columns import Ids
from features.lake import Lake, Partition
from features.reader import require_columns
from features.schema import EVENT_TIME, USER_ID, Schema
from features.windows import Windows, pieces_of
from serving.replay.requests import Requests, times_ms
from serving.replay.served import Served
from trainer.downstream.arms import BASELINE, Arms, own_features, shape_of, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder
from trainer.downstream.rate import positive_rate
from trainer.downstream.scores import Predictions
from trainer.recipe import DownstreamRecipe
from trainer.towers import UserTower

_EVALUATION_BATCH = 8_192
_WINDOW_ROWS = 32_768
_WAITING_BATCHES = 32


class RequestEncoder(JoiningEncoder):
    """An encoder that joins by request, not by user."""

    def __init__(
        self,
        schema: Schema,
        requests: Requests,
        *,
        task: str,
        features: frozenset[str],
        served: Mapping[str, Served],
    ) -> None:
        super().__init__(schema, task=task, features=features, embeddings=served)
        self._requests = requests

    @property
    def columns(self) -> list[str]:
        """The columns that `encode` needs."""
        return [EVENT_TIME, *super().columns]

    def keys(self, rows: pa.RecordBatch | pa.Table) -> Ids:
        """[rows]: places among the requests."""
        return self._requests.places(rows.column(USER_ID).to_numpy(), times_ms(rows.column(EVENT_TIME)))


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

    @classmethod
    def of_arms(cls, predictions: Predictions) -> Losses:
        """Of all arms, in their order."""
        losses = np.stack([predictions.losses(arm) for arm in predictions.logits], axis=1)
        positives = int(predictions.labels.sum())
        ids = predictions.user_ids
        return cls.of(ids, losses, num_examples=len(ids), num_positives=positives)


class ModeArms:
    """The baseline and one arm per mode, in step."""

    def __init__(self, downstream: DownstreamRecipe, schema: Schema, tower: UserTower, *, modes: Iterable[str]) -> None:
        self._downstream, self._schema = downstream, small_tables(schema)
        shapes = {BASELINE: (), **{mode: (shape_of(tower),) for mode in modes}}
        self._arms, self._started = Arms(downstream, self._schema, shapes), False

    def evaluate(self, lake: Lake, examples: Partition, requests: Requests, served: Mapping[str, Served]) -> Losses:
        """Predict every example with frozen weights."""
        with closing(self._in_time(lake, examples, requests, served, size=_EVALUATION_BATCH)) as batches:
            return Losses.of_arms(self._arms.evaluate(batches))

    def train(self, lake: Lake, examples: Partition, requests: Requests, served: Mapping[str, Served]) -> Losses:
        """One pass in event time; the losses are from before each batch was learnt: those of a consumer that learns as
        requests come, and has seen nothing later than the batch. The first day, which is not scored, gives the rate of
        positives that it starts at."""
        if not self._started:
            self._arms.start_at(positive_rate(lake, examples, self._downstream))
            self._started = True
        with closing(self._in_time(lake, examples, requests, served, size=self._downstream.batch_size)) as batches:
            return Losses.of_arms(self._arms.train(batches))

    def _in_time(
        self, lake: Lake, examples: Partition, requests: Requests, served: Mapping[str, Served], *, size: int
    ) -> Generator[JoinedBatch]:
        """The day's examples in their order, decoded and joined ahead."""
        features = own_features(self._downstream, self._schema)
        encoder = RequestEncoder(self._schema, requests, task=self._downstream.task, features=features, served=served)
        dataset = lake.dataset(examples)
        require_columns(dataset, examples, encoder)
        pieces = pieces_of(dataset, self._downstream.examples)
        windows, total = Windows(pieces, encoder.columns), sum(piece.num_rows for piece in pieces)
        rows = max(_WINDOW_ROWS // size, 1) * size

        def batches() -> Iterator[JoinedBatch]:
            for start in range(0, total, rows):
                window = windows.read(start, min(start + rows, total))
                yield from encoder.batches(window, order=np.arange(window.num_rows), batch_size=size)

        return ahead(batches(), waiting=_WAITING_BATCHES, name="replay-read")
