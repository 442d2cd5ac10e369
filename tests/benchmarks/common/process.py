"""The processes that are measured: ranks that `trainer.launch` starts, as it starts those of a training job."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from infra.settings import torchrun_rank
from trainer import failure, heartbeat
from trainer.device import backend, rank_device
from trainer.heartbeat import Post
from trainer.job import Launch
from trainer.launch import run_ranks
from trainer.recipe import DeviceName
from trainer.worker import die_with_parent, give_up, set_up_logging

_DEADLINE_SECONDS = 600.0
_MEETING_SECONDS = 0.002
_JOB = "job.json"


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A rank, in its process group."""

    device: torch.device
    local_world_size: int
    wait: Callable[[], None]
    """Until all ranks of the job are here, whatever their process groups."""


def launch(entry: str, job: bytes, *, ranks: int, start: Launch = run_ranks) -> list[bytes]:
    """Call `entry` (`module:function`) with the path of `job` on so many ranks; what each of them gave `as_rank`.

    start: what starts the ranks. RuntimeError with the failing rank's message.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / _JOB).write_bytes(job)
        start(entry, [str(directory / _JOB)], ranks=ranks, directory=directory)
        return [_result(directory, rank).read_bytes() for rank in range(ranks)]


def as_rank(path: str, work: Callable[[bytes, Rank], bytes], *, device: DeviceName, alone: bool = False) -> None:
    """Do `work` of the job at `path` in a process group and leave its result behind.

    alone: in a group of its own.
    """
    number, world_size, local_world_size = torchrun_rank()
    directory = Path(path).parent
    die_with_parent()
    set_up_logging(number)
    post = Post(directory=directory, rank=number, world_size=world_size, deadline_seconds=_DEADLINE_SECONDS)
    watch = heartbeat.start(post, expired=lambda phase: give_up(failure.of_deadline(phase, post), post))
    try:
        where = rank_device(device, local_rank=number % local_world_size)
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group(
            backend(where),
            init_method=f"file://{directory / (f'store-{number}' if alone else 'store')}",
            rank=0 if alone else number,
            world_size=1 if alone else world_size,
            timeout=timedelta(seconds=_DEADLINE_SECONDS),
        )
        line = _StartLine(directory / "start-line", world_size)
        rank = Rank(device=where, local_world_size=1 if alone else local_world_size, wait=line.wait)
        _result(directory, number).write_bytes(work(Path(path).read_bytes(), rank))
        dist.destroy_process_group()
    except Exception as error:
        give_up(failure.of_error(error, post), post)
    watch.stop()


def cpu_seconds(pid: int) -> float:
    """Of another process, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _result(directory: Path, rank: int) -> Path:
    return directory / f"result-{rank}.json"


class _StartLine:
    def __init__(self, path: Path, num_ranks: int) -> None:
        self._store = FileStore(str(path), num_ranks)
        self._num_ranks = num_ranks
        self._passed = 0

    def wait(self) -> None:
        self._passed += 1
        key = f"pass-{self._passed}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self._num_ranks:
            time.sleep(_MEETING_SECONDS)
