"""Ranks that only meet: what an agent starts. They import no model."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from infra.settings import torchrun_rank
from trainer.rendezvous import rank_store


def main(directory: str) -> None:
    """Add the ranks up, and say what this one saw."""
    rank, world_size, local_world_size = torchrun_rank()
    folder = Path(directory)
    store = rank_store(folder, world_size=world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=20))
    total = torch.tensor([rank])
    dist.all_reduce(total)
    seen = {"sum": int(total), "world_size": world_size, "local_world_size": local_world_size}
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()
