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
from trainer.checkpoint import save_state
from trainer.config import TrainingConfig
from trainer.pipeline import OverlappedSteps, Pipeline, Steps
from trainer.planning import rules
from trainer.planning.cluster import Cluster

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


def train(to: Path, *, overlapped: bool) -> None:
    """All steps, then the state to the checkpoint `to`."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    sharded = sharding.build(TrainingConfig.of(planted_recipe()), local_world_size=world_size)
    kind: type[OverlappedSteps] | type[Steps] = OverlappedSteps if overlapped else Steps
    pipeline: Pipeline = kind(sharded, sharded.module)
    batches = share(rank, world_size)
    for _ in range(STEPS):
        pipeline.progress(batches)
    save_state(to, sharded.state_dict())


def split_every_table() -> None:
    """By rows, whatever its size."""

    def split(table: object, cluster: Cluster) -> list[str]:
        return [rules.ROW_WISE]

    rules.allowed_types = split  # type: ignore[assignment]


def main(to: str, placement: str, steps: str) -> None:
    """placement: `planned`, or `row_wise` to split every table; steps: `by_hand` or `overlapped`."""
    if placement == "row_wise":
        split_every_table()
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=rank, world_size=world_size)
    train(Path(to), overlapped=steps == "overlapped")
    dist.destroy_process_group()
