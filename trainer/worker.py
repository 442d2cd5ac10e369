"""One rank of a training job. `trainer.agent` calls `main` in a process of its own."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from infra.settings import torchrun_rank
from trainer import failure, heartbeat
from trainer.assignment import read_assignment
from trainer.day import learn_day
from trainer.device import backend, rank_device, set_up
from trainer.heartbeat import Post
from trainer.locks import keep_renewed
from trainer.reach import Door, Place, address_towards
from trainer.rendezvous import lost_seconds, rank_store, ranks_meet_at

log = logging.getLogger("trainer.worker")

_COLLECTIVES_SHARE = 1.25
"""Of the deadline: within the pass the heartbeat's comes first, and can name the rank that is waited for."""
_GRACE_SECONDS = 1.0
"""torchrun names the first rank that it sees end: the one that went away should be it, not one that lost it."""
_PR_SET_PDEATHSIG = 1
_door: Door | None = None
"""By which other hosts see that this one can be reached: open as long as this process lives."""


def main(assignment_path: str) -> None:
    """Do what the assignment says; on an error leave `error-<rank>.json` beside it and exit with 1."""
    path = Path(assignment_path)
    rank, world_size, local_world_size = torchrun_rank()
    die_with_parent()
    set_up_logging(rank)
    failure.forget(path.parent, rank)
    assignment = read_assignment(path)
    deadline = assignment.deadline_seconds
    post = Post(directory=path.parent, rank=rank, world_size=world_size, deadline_seconds=deadline)
    watch = heartbeat.start(post, expired=lambda phase: give_up(failure.of_deadline(phase, post), post))
    try:
        if assignment.outlives and rank == 0:
            keep_renewed(assignment.lock, token=assignment.token)
        device = rank_device(assignment.device, local_rank=rank % local_world_size)
        set_up(device, assignment.config.compute)
        timeout = timedelta(seconds=_COLLECTIVES_SHARE * deadline)
        store = rank_store(path.parent, world_size=world_size, timeout=timeout)
        dist.init_process_group(backend(device), store=store, rank=rank, world_size=world_size, timeout=timeout)
        post = watch.meet(exchange_places(), lost_seconds=lost_seconds())
        learn_day(assignment, device=device, local_world_size=local_world_size, directory=path.parent)
        dist.destroy_process_group()
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of an agent that lost the same host: the reason is told first
        log.error("%s: %s", type(error).__name__, error, exc_info=True)
        give_up(failure.of_error(error, post), post)
    watch.stop()


def exchange_places() -> list[Place]:
    """Where every rank of a job over several hosts is; none in a job of one. A collective; the door stays open."""
    global _door
    listening = ranks_meet_at()
    if listening is None:
        return []
    _door = Door.open(address_towards(listening))
    places: list[Place] = [_door.place] * dist.get_world_size()
    dist.all_gather_object(places, _door.place)
    return places


def give_up(of: failure.Failure, post: Post) -> NoReturn:
    """Tell the launcher and end this process at once: taking the process group apart could wait for the others."""
    of.write(post.directory)
    log.error("gave up: %s: %s", of.type, of.message)
    if of.type == failure.DEADLINE:
        faulthandler.dump_traceback(all_threads=True)
    if of.kind == "broken":
        time.sleep(_GRACE_SECONDS)
    if of.kind in ("waited", "alone") and sys.platform == "linux":
        # A stopped rank would not see that torchrun asks it to end.
        os.killpg(os.getpgrp(), signal.SIGCONT)
    logging.shutdown()
    os._exit(1)


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process with torchrun's agent, whatever kills the agent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_up_logging(rank: int) -> None:
    """Our lines, with the rank; the libraries' only when something is wrong."""
    logging.basicConfig(
        level=logging.ERROR,
        format=f"%(asctime)s rank={rank} %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for package in ("trainer", "features"):
        logging.getLogger(package).setLevel(logging.INFO)
    # TorchRec and DCP still call what this torch deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
