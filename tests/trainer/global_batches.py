"""Ranks that share the same global batches, however many they are: what `run_ranks` starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from features.batches import Batch, Encoder
from infra.settings import torchrun_rank
from tests.trainer.planted import SCHEMA, planted_examples, planted_recipe
from trainer import sharding
from trainer.anchor import Anchor
from trainer.carryover.compare import compare
from trainer.carryover.document import ModelDocument
from trainer.checkpoint import save_state
from trainer.config import TrainingConfig
from trainer.pipeline import OverlappedSteps, Pipeline, Steps
from trainer.planning import rules
from trainer.planning.cluster import Cluster
from trainer.stabilizers import Distillation, L2ToPrevious, Regularizer

GLOBAL_BATCH = 64
STEPS = 20


def share(rank: int, world_size: int) -> Iterator[Batch]:
    """The rank's part of every global batch."""
    config = TrainingConfig.of(planted_recipe())
    encoder = Encoder(SCHEMA, tasks=config.task_names)
    rows = planted_examples(GLOBAL_BATCH * STEPS, seed=3).select(encoder.columns)
    size = GLOBAL_BATCH // world_size
    for step in range(STEPS):
        batch = encoder.encode(rows.slice(step * GLOBAL_BATCH + rank * size, size).combine_chunks())
        batch.num_examples = torch.tensor(float(size))
        yield batch


def train(to: Path, *, overlapped: bool, regularizers: tuple[Regularizer, ...]) -> None:
    """All steps, then the state to the checkpoint `to`."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = TrainingConfig.of(planted_recipe(regularizers=regularizers))
    document = ModelDocument(config=config)
    sharded = sharding.build(config, local_world_size=world_size)
    anchor = Anchor(sharded, config, compare(document, document))
    kind: type[OverlappedSteps] | type[Steps] = OverlappedSteps if overlapped else Steps
    pipeline: Pipeline = kind(sharded, lambda batch: sharded.module(anchor.teach(batch)))
    batches = share(rank, world_size)
    for _ in range(STEPS):
        pipeline.progress(batches)
    save_state(to, sharded.state_dict())


def split_every_table() -> None:
    """By rows, whatever its size."""

    def split(table: object, cluster: Cluster) -> list[str]:
        return [rules.ROW_WISE]

    rules.allowed_types = split  # type: ignore[assignment]


def main(folder: str, *runs: str) -> None:
    """Each run is `NAME,PLACEMENT,STEPS,WEIGHT` and leaves `folder/NAME/checkpoint`. placement: `planned`, or
    `row_wise` to split every table; steps: `by_hand` or `overlapped`; weight: of the regularizers, whose parent is the
    initial model."""
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    planned = rules.allowed_types
    for run in runs:
        name, placement, steps, weight = run.split(",")
        if placement == "row_wise":
            split_every_table()
        regularizers = (L2ToPrevious(weight=float(weight)), Distillation(weight=float(weight)))
        train(Path(folder) / name / "checkpoint", overlapped=steps == "overlapped", regularizers=regularizers)
        rules.allowed_types = planned
    dist.destroy_process_group()
