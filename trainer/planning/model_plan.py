"""The plan of a whole model: built, measured and planned on meta."""

from __future__ import annotations

from functools import cached_property

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batches import Batch
from features.schema import Side
from trainer.config import TrainingConfig
from trainer.model.build import build_model
from trainer.model.multi_task import MultiTaskModel
from trainer.planning.cluster import Cluster
from trainer.planning.dense import DensePart, measure
from trainer.planning.planned import PlannedModel
from trainer.planning.planner import plan_tables
from trainer.planning.quiet import quiet
from trainer.planning.rules import tables_of
from trainer.table_optimizer import optimize_in_backward

IDS_PER_FEATURE = 10.0
"""Mean length of an id list, where nobody says better. It weighs the tables' traffic, not their size."""

_META = torch.device("meta")


class ModelPlanner:
    """Plans the model of `config` for one cluster or another; `batch_size` replaces the config's."""

    def __init__(
        self, config: TrainingConfig, *, batch_size: int | None = None, ids_per_feature: float = IDS_PER_FEATURE
    ) -> None:
        if ids_per_feature <= 0:
            raise ValueError(f"{ids_per_feature} ids per feature; the mean length of an id list is positive")
        self._batch_size = config.batch_size if batch_size is None else batch_size
        if self._batch_size < 1:
            raise ValueError(f"batch size is {self._batch_size}; it is at least 1")
        self._ids_per_feature = ids_per_feature
        self._config = config
        self._model = meta_model(config)

    @property
    def tables(self) -> dict[str, list[EmbeddingBagConfig]]:
        """Of every EmbeddingBagCollection of the model, by its path."""
        return tables_of(self._model)

    @property
    def example_flops(self) -> float:
        """Of the dense part's forward, for one example."""
        return self._dense.forward_flops / self._batch_size

    @cached_property
    def _dense(self) -> DensePart:
        """Measured by a pass over meta, which a plan that is reused does without."""
        return measure_dense(
            self._model, self._config, batch_size=self._batch_size, ids_per_feature=self._ids_per_feature
        )

    def plan(self, cluster: Cluster) -> PlannedModel:
        """The plan; DoesNotFitError when there is none."""
        return plan_tables(
            self._model,
            cluster,
            dense=self._dense,
            batch_size=self._batch_size,
            ids_per_feature=self._ids_per_feature,
        )


def meta_model(config: TrainingConfig) -> MultiTaskModel:
    """The model without memory, its tables' optimizer attached: the planner counts its state."""
    with _META:
        model = build_model(config, device=_META)
    optimize_in_backward(model, config.optimizer)
    return model


def measure_dense(
    model: MultiTaskModel, config: TrainingConfig, *, batch_size: int, ids_per_feature: float
) -> DensePart:
    """Run one batch through the model on meta."""
    with quiet():
        batch = meta_batch(config, batch_size=batch_size, ids_per_feature=ids_per_feature)
    tensors = [batch.user_dense, batch.item_dense, batch.labels, batch.weights]
    for sparse in (batch.user_sparse, batch.item_sparse):
        tensors += [sparse.values(), sparse.lengths()]
    input_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return measure(model, lambda: model(batch), input_bytes=input_bytes)


def meta_batch(config: TrainingConfig, *, batch_size: int, ids_per_feature: float) -> Batch:
    """The shape of a batch, without its values."""
    schema = config.schema
    return Batch(
        user_sparse=_meta_ids(config, "user", batch_size, ids_per_feature),
        user_dense=torch.empty(batch_size, len(schema.dense_of("user")), device=_META),
        item_sparse=_meta_ids(config, "item", batch_size, ids_per_feature),
        item_dense=torch.empty(batch_size, len(schema.dense_of("item")), device=_META),
        labels=torch.empty(batch_size, len(config.tasks), device=_META),
        weights=torch.empty(batch_size, device=_META),
        num_examples=torch.empty((), device=_META),
    )


def _meta_ids(config: TrainingConfig, side: Side, batch_size: int, ids_per_feature: float) -> KeyedJaggedTensor:
    names = [feature.name for feature in config.schema.sparse_of(side)]
    ids = round(batch_size * ids_per_feature)
    return KeyedJaggedTensor(
        keys=names,
        values=torch.empty(len(names) * ids, dtype=torch.int64, device=_META),
        lengths=torch.empty(len(names) * batch_size, dtype=torch.int32, device=_META),
        stride=batch_size,
        # Given, because on meta they cannot be counted.
        length_per_key=[ids] * len(names),
        offset_per_key=[index * ids for index in range(len(names) + 1)],
    )
