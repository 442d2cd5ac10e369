"""Ranks that take some steps, and take the later ones again from a waypoint: what `run_ranks` starts."""

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
from trainer.pipeline import Steps
from trainer.resume import restore, state_of
from trainer.sharding import ShardedModel

STEPS = 8
_BATCH = 22
CONFIG = TrainingConfig.of(planted_recipe())


def batches(rank: int, world_size: int) -> Iterator[Batch]:
    """The rank's own."""
    encoder = Encoder(SCHEMA, tasks=CONFIG.task_names)
    rows = planted_examples(_BATCH * world_size * STEPS, seed=3).select(encoder.columns)
    for step in range(STEPS):
        batch = encoder.encode(rows.slice((step * world_size + rank) * _BATCH, _BATCH).combine_chunks())
        batch.num_examples = torch.tensor(float(_BATCH))
        yield batch


def build(world_size: int) -> ShardedModel:
    """A new model."""
    return sharding.build(CONFIG, local_world_size=world_size)


def main(to: str, *steps: str) -> None:
    """The state after all steps to `<to>/whole`, and after going on from each of `steps` to `<to>/<step>`."""
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=rank, world_size=world_size)
    given = list(batches(rank, world_size))
    metrics = {"sums": torch.zeros(1)}
    sharded = build(world_size)
    pipeline = Steps(sharded, sharded.module)
    for step, batch in enumerate(given, 1):
        pipeline.progress(iter([batch]))
        if str(step) in steps:
            save_state(Path(to) / f"waypoint-{step}", state_of(sharded, metrics))
    save_state(Path(to) / "whole", sharded.state_dict())
    for name in steps:
        first = int(name)
        sharded = build(world_size)
        restore(Path(to) / f"waypoint-{first}", sharded, metrics, step=first, batch=given[first])
        pipeline, rest = Steps(sharded, sharded.module), iter(given[first:])
        for _ in range(first, STEPS):
            pipeline.progress(rest)
        save_state(Path(to) / name, sharded.state_dict())
    dist.destroy_process_group()
