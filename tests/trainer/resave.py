"""Ranks that load a checkpoint and save it again."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from infra.settings import torchrun_rank
from tests.trainer.global_batches import split_every_table
from trainer import sharding
from trainer.assignment import Assignment, read_assignment
from trainer.checkpoint import save_state


def resave(assignment: Assignment, to: Path) -> None:
    """Load the assignment's parent and save it under `to`, at the ranks of the default process group."""
    assert assignment.parent is not None
    sharded = sharding.build(assignment.config, local_world_size=dist.get_world_size())
    sharded.load(assignment.parent.path)
    save_state(to, sharded.state_dict())


def main(path: str, to: str, placement: str) -> None:
    """What every rank of the job calls. placement: `planned`, or `row_wise` to split every table."""
    if placement == "row_wise":
        split_every_table()
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=rank, world_size=world_size)
    resave(read_assignment(Path(path)), Path(to))
    dist.destroy_process_group()
