"""One rank of a training job. `trainer.agent` calls `main` in a process of its own."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import signal
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from infra.settings import torchrun_rank
from trainer import sharding
from trainer.assignment import Assignment, read_assignment
from trainer.checkpoint import partial_path, save_state, seal, verify
from trainer.locks import check_token
from trainer.loop import learn
from trainer.trained import DOCUMENT, TrainedDay, to_json

log = logging.getLogger("trainer.worker")

DEADLINE = timedelta(seconds=120)
"""A rank that waits longer than this for another fails instead of hanging."""
_PR_SET_PDEATHSIG = 1


def main(assignment_path: str) -> None:
    """Do what the assignment says; on an error leave `error-<rank>.json` beside it and exit with 1."""
    path = Path(assignment_path)
    rank, world_size, local_world_size = torchrun_rank()
    die_with_parent()
    set_up_logging(rank)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{path.parent / 'store'}",
            rank=rank,
            world_size=world_size,
            timeout=DEADLINE,
        )
        work(read_assignment(path), local_world_size=local_world_size)
        dist.destroy_process_group()
    except Exception as error:
        log.error("%s: %s", type(error).__name__, error, exc_info=True)
        report = {"rank": rank, "time": time.time(), "type": type(error).__name__, "message": str(error)}
        (path.parent / f"error-{rank}.json").write_text(json.dumps(report))
        sys.exit(1)


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


def work(assignment: Assignment, *, local_world_size: int) -> None:
    """Learn the day and seal the checkpoint. A collective of the default process group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    started = time.monotonic()
    tasks = tuple(task.name for task in assignment.config.tasks)
    reader = DayReader(
        Lake(assignment.lake),
        assignment.examples,
        Encoder(assignment.config.schema, tasks=tasks),
        batch_size=assignment.config.batch_size,
        rank=rank,
        world_size=world_size,
        seed=assignment.config.seed,
    )
    sharded = sharding.build(assignment.config, local_world_size=local_world_size)
    if assignment.parent is not None:
        warm_start(sharded, assignment.parent)
    log.info(
        "learning model=%s ds=%s examples=%d batches=%d ranks=%d",
        assignment.config.name,
        assignment.ds,
        reader.num_rows,
        reader.num_batches,
        world_size,
    )
    values = learn(sharded, reader, tasks=tasks, cold_start=assignment.parent is None)
    publish(assignment, sharded, num_examples=reader.num_rows, values=values, started=started)


def warm_start(sharded: sharding.ShardedModel, parent: TrainedDay) -> None:
    """Take weights and optimizer state of the parent, at any number of ranks, once its bytes are verified."""
    verify(parent.path, part=dist.get_rank(), parts=dist.get_world_size())
    dist.barrier()
    sharded.load(parent.path)
    if dist.get_rank() == 0:
        log.info("warm start from ds=%s fingerprint=%s", parent.ds, parent.fingerprint[:8])


def publish(
    assignment: Assignment,
    sharded: sharding.ShardedModel,
    *,
    num_examples: int,
    values: dict[str, dict[str, float]],
    started: float,
) -> None:
    """Save on every rank, seal on rank 0, unless a later attempt has taken the lock."""
    partial = partial_path(assignment.destination, token=assignment.token)
    save_state(partial, sharded.state_dict())
    dist.barrier()
    if dist.get_rank() == 0:
        trained = TrainedDay(
            model=assignment.config.name,
            ds=assignment.ds,
            fingerprint=assignment.fingerprint,
            parent_fingerprint=assignment.parent.fingerprint if assignment.parent else None,
            parent_ds=assignment.parent.ds if assignment.parent else None,
            examples=assignment.examples,
            num_examples=num_examples,
            metrics={
                task: {name: value if math.isfinite(value) else None for name, value in of_task.items()}
                for task, of_task in values.items()
            },
            seconds=round(time.monotonic() - started, 3),
            ranks=dist.get_world_size(),
            revision=assignment.revision,
            path=assignment.destination,
        )
        check_token(assignment.lock, token=assignment.token)
        seal(partial, assignment.destination, documents={DOCUMENT: to_json(trained)})
        log.info("sealed %s", assignment.destination)
    dist.barrier()
