"""A rank that loads a checkpoint and saves it again: `python -m tests.trainer.resave ASSIGNMENT.json TO`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from infra.settings import torchrun_rank
from trainer import sharding
from trainer.assignment import Assignment, read_assignment
from trainer.checkpoint import load_state, save_state


def resave(assignment: Assignment, to: Path) -> None:
    """Load the assignment's parent and save it under `to`, at the ranks of the default process group."""
    assert assignment.parent is not None
    sharded = sharding.build(assignment.config, local_world_size=dist.get_world_size())
    state = sharded.state_dict()
    load_state(assignment.parent.path, state)
    sharded.load_state_dict(state)
    save_state(to, sharded.state_dict())


if __name__ == "__main__":
    path, target = Path(sys.argv[1]), Path(sys.argv[2])
    rank, world_size, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{target}.store", rank=rank, world_size=world_size)
    resave(read_assignment(path), target)
    dist.destroy_process_group()
