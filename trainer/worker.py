"""One rank of a training job. `trainer.agent` calls `main` in a process of its own."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import math
import os
import signal
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from infra.settings import torchrun_rank
from trainer import failure, heartbeat, sharding
from trainer.assignment import Assignment, read_assignment
from trainer.carryover.compare import Comparison, compare
from trainer.carryover.document import DOCUMENT as MODEL
from trainer.carryover.document import ModelDocument, read_model
from trainer.carryover.load import carry_over
from trainer.carryover.summary import CarriedOver, as_table, summarise
from trainer.checkpoint import hashed_part, partial_path, save_state, seal, verify
from trainer.config import TrainingConfig
from trainer.device import backend, rank_device, set_up
from trainer.heartbeat import Phase, Post, beat
from trainer.locks import check_token
from trainer.loop import learn
from trainer.planning import document
from trainer.planning.inherit import read_plan
from trainer.profile import write_profile
from trainer.profiling import StepProfiler
from trainer.resume import find_waypoint
from trainer.saver import WaypointSaver
from trainer.trained import DOCUMENT, TrainedDay, to_json

log = logging.getLogger("trainer.worker")

_COLLECTIVES_SHARE = 1.25
"""Of the deadline: within the pass the heartbeat's comes first, and can name the rank that is waited for."""
_GRACE_SECONDS = 1.0
"""torchrun names the first rank that it sees end: the one that went away should be it, not one that lost it."""
_PR_SET_PDEATHSIG = 1


def main(assignment_path: str) -> None:
    """Do what the assignment says; on an error leave `error-<rank>.json` beside it and exit with 1."""
    path = Path(assignment_path)
    rank, world_size, local_world_size = torchrun_rank()
    die_with_parent()
    set_up_logging(rank)
    assignment = read_assignment(path)
    deadline = assignment.deadline_seconds
    post = Post(directory=path.parent, rank=rank, world_size=world_size, deadline_seconds=deadline)
    watch = heartbeat.start(post, expired=lambda phase: give_up(failure.of_deadline(phase, post), post))
    try:
        device = rank_device(assignment.device, local_rank=rank % local_world_size)
        set_up(device, assignment.config.compute)
        dist.init_process_group(
            backend(device),
            init_method=f"file://{path.parent / 'store'}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=_COLLECTIVES_SHARE * deadline),
        )
        work(assignment, device=device, local_world_size=local_world_size, directory=path.parent)
        dist.destroy_process_group()
    except Exception as error:
        log.error("%s: %s", type(error).__name__, error, exc_info=True)
        give_up(failure.of_error(error, post), post)
    watch.stop()


def give_up(of: failure.Failure, post: Post) -> NoReturn:
    """Tell the launcher and end this process at once: taking the process group apart could wait for the others."""
    of.write(post.directory)
    log.error("gave up: %s: %s", of.type, of.message)
    if of.type == failure.DEADLINE:
        faulthandler.dump_traceback(all_threads=True)
    if of.kind == "broken":
        time.sleep(_GRACE_SECONDS)
    if of.kind == "waited" and sys.platform == "linux":
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


def work(assignment: Assignment, *, device: torch.device, local_world_size: int, directory: Path) -> None:
    """Learn the day and seal the checkpoint, or profile the first steps of it. A collective of the default process
    group. directory: the job's."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    started = time.monotonic()
    tasks = assignment.config.task_names
    beat(Phase.OPENING)
    reader = DayReader(
        Lake(assignment.lake),
        assignment.examples,
        Encoder(assignment.config.schema, tasks=tasks),
        batch_size=assignment.config.batch_size,
        rank=rank,
        world_size=world_size,
        seed=assignment.config.seed,
    )
    found = None if assignment.profile_steps else find_waypoint(assignment)
    origin = found[0] if found is not None else assignment.parent.path if assignment.parent is not None else None
    beat(Phase.BUILDING)
    sharded = sharding.build(
        assignment.config,
        local_world_size=local_world_size,
        parent_plan=read_plan(origin) if origin is not None else None,
        device=device,
    )
    carried = None
    if found is not None and assignment.parent is not None:
        carried = compared(assignment.parent, assignment.config)
    elif assignment.parent is not None:
        beat(Phase.LOADING)
        carried = warm_start(sharded, assignment.parent, config=assignment.config)
    log.info(
        "learning model=%s ds=%s examples=%d batches=%d ranks=%d device=%s",
        assignment.config.name,
        assignment.ds,
        reader.num_rows,
        reader.num_batches,
        world_size,
        device,
    )
    if assignment.profile_steps:
        profile(assignment, sharded, reader, directory=directory)
        return
    resumed = 0
    if found is not None:
        resumed = found[1].resumed + 1
        started -= found[1].seconds
        log.info("resumed at step=%d of %d (%s), time number %d", found[1].step, reader.num_batches, found[0], resumed)
    values = learn(
        sharded,
        reader,
        tasks=tasks,
        cold_start=assignment.parent is None,
        new_tasks=() if carried is None else carried.new_tasks,
        saver=WaypointSaver(assignment, plan=sharded.plan, resumed=resumed, began=started)
        if assignment.checkpoint_seconds
        else None,
        resume_from=(found[0], found[1].step) if found is not None else None,
    )
    beat(Phase.SAVING)
    publish(
        assignment,
        sharded,
        num_examples=reader.num_rows,
        values=values,
        started=started,
        resumed=resumed,
        carried_over=None if carried is None else summarise(carried),
    )


def compared(parent: TrainedDay, config: TrainingConfig) -> Comparison:
    """What `config`'s model shares with the parent's; all of it where the parent does not say what it holds."""
    today = ModelDocument(config=config)
    return compare(read_model(parent.path) or today, today)


def warm_start(sharded: sharding.ShardedModel, parent: TrainedDay, *, config: TrainingConfig) -> Comparison:
    """Take over what `config`'s model shares with the parent's, weights and optimizer state, at any number of ranks,
    once its bytes are verified; the rest keeps its initial weights. A collective.

    RuntimeError for a parent without `model.json` that holds another model.
    """
    verify(parent.path, part=dist.get_rank(), parts=dist.get_world_size())
    dist.barrier()
    today = ModelDocument(config=config)
    before = read_model(parent.path)
    comparison = compare(before or today, today)
    if comparison.is_unchanged:
        try:
            sharded.load(parent.path)
        except RuntimeError as error:
            if before is not None:
                raise
            raise RuntimeError(
                f"{parent.path} holds another model than the recipe's and does not say which (it was written before "
                f"there was a {MODEL}): {error}. Train with the recipe of {parent.ds} once more, then change it"
            ) from error
    else:
        carry_over(sharded, parent.path, comparison)
    if dist.get_rank() == 0:
        log.info("warm start from ds=%s fingerprint=%s", parent.ds, parent.fingerprint[:8])
        for line in as_table(summarise(comparison)):
            log.info("warm start: %s", line)
    return comparison


def profile(assignment: Assignment, sharded: sharding.ShardedModel, reader: DayReader, *, directory: Path) -> None:
    """Rank 0's profile, to the job's directory."""
    rank, config = dist.get_rank(), assignment.config
    with StepProfiler(assignment.profile_steps, device=sharded.device) as profiler:
        cold_start = assignment.parent is None
        learn(sharded, reader, tasks=config.task_names, cold_start=cold_start, profiler=profiler)
    if rank == 0:
        found = profiler.result(
            directory,
            model=config.name,
            ds=str(assignment.ds),
            ranks=dist.get_world_size(),
            device=str(sharded.device),
            batch_size=config.batch_size,
        )
        write_profile(found, directory)
    dist.barrier()


def publish(
    assignment: Assignment,
    sharded: sharding.ShardedModel,
    *,
    num_examples: int,
    values: dict[str, dict[str, float]],
    started: float,
    resumed: int,
    carried_over: CarriedOver | None,
) -> None:
    """Save on every rank, seal on rank 0, unless a later attempt has taken the lock."""
    partial = partial_path(assignment.destination, token=assignment.token)
    save_state(partial, sharded.state_dict())
    hashed: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(hashed, hashed_part(partial, rank=dist.get_rank()))
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
            resumed=resumed,
            gap_days=assignment.gap_days,
            carried_over=carried_over,
        )
        documents = {
            DOCUMENT: to_json(trained),
            document.DOCUMENT: sharded.plan.to_json(),
            MODEL: ModelDocument(config=assignment.config).to_json(),
        }
        seal(
            partial,
            assignment.destination,
            documents=documents,
            hashed={name: entry for part in hashed for name, entry in part.items()},
            may_publish=lambda: check_token(assignment.lock, token=assignment.token),
        )
        log.info("sealed %s", assignment.destination)
    dist.barrier()
