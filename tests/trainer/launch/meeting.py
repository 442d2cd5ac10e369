"""Ranks that only meet: what an agent starts. They import no model."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from infra.settings import torchrun_rank
from trainer.rendezvous import rank_store

LISTENS = "0A"


def main(directory: str) -> None:
    """Add the ranks up, and say what this one saw."""
    rank, world_size, local_world_size = torchrun_rank()
    folder = Path(directory)
    store = rank_store(folder, world_size=world_size, timeout=timedelta(seconds=20))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    total = torch.tensor([rank])
    dist.all_reduce(total)
    seen = {
        "sum": int(total),
        "world_size": world_size,
        "local_world_size": local_world_size,
        "listens_on": listened_addresses(),
    }
    partial = folder / f".seen-{rank}"
    partial.write_text(json.dumps(seen))
    partial.rename(folder / f"seen-{rank}.json")
    dist.destroy_process_group()


def listened_addresses() -> list[str]:
    """The addresses of every socket of this process and of its agent that listens."""
    mine = set()
    for pid in ("self", os.getppid()):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                mine.add(str(path.readlink()))
    found = []
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and f"socket:[{fields[9]}]" in mine:
                found.append(_address(family, fields[1].partition(":")[0]))
    return found


def _address(family: socket.AddressFamily, words: str) -> str:
    parts = [bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8)]
    return socket.inet_ntop(family, b"".join(parts))
