"""Ranks that warm-start from an assignment's parent and save what they hold."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from infra.settings import torchrun_rank
from trainer import sharding
from trainer.assignment import read_assignment
from trainer.checkpoint import save_state
from trainer.origin import warm_start


def main(path: str, to: str) -> None:
    """What every rank of the job calls."""
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=rank, world_size=world_size)
    assignment = read_assignment(Path(path))
    assert assignment.parent is not None
    sharded = sharding.build(assignment.config, local_world_size=world_size)
    warm_start(sharded, assignment.parent, config=assignment.config)
    save_state(Path(to), sharded.state_dict())
    dist.destroy_process_group()
