"""One rank's part in a day: open it, take over what was learnt before, learn it, seal it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from features.batches import Encoder
from features.id_map import IdMap
from features.lake import Lake
from features.reader import DayReader
from trainer import sharding
from trainer.anchor import Anchor
from trainer.assignment import Assignment
from trainer.heartbeat import Phase, beat
from trainer.identities import newcomers, read_maps, start_newcomers
from trainer.increments.touched import Touched
from trainer.loop import learn
from trainer.origin import find_origin, take_over
from trainer.planning.inherit import read_plan
from trainer.profile import write_profile
from trainer.profiling import StepProfiler
from trainer.saver import WaypointSaver
from trainer.sealing import seal_day

log = logging.getLogger(__name__)


def learn_day(assignment: Assignment, *, device: torch.device, local_world_size: int, directory: Path) -> None:
    """Learn the day and seal the checkpoint, or profile the first steps of it. A collective of the default process
    group. directory: the job's."""
    started = time.monotonic()
    config = assignment.config
    beat(Phase.OPENING)
    maps = read_maps(assignment.ids, config.schema) if assignment.ids is not None else {}
    reader = open_reader(assignment, maps)
    origin = find_origin(assignment)
    started -= origin.seconds
    beat(Phase.BUILDING)
    sharded = sharding.build(
        config,
        local_world_size=local_world_size,
        parent_plan=read_plan(origin.path) if origin.path is not None else None,
        device=device,
    )
    carried = take_over(origin, sharded, config=config)
    if carried is not None and (origin.waypoint is None or config.is_anchored):
        start_newcomers(sharded, config, maps)
    anchor = Anchor(sharded, config, carried)
    log.info(
        "learning model=%s ds=%s examples=%d batches=%d ranks=%d device=%s",
        config.name,
        assignment.ds,
        reader.num_rows,
        reader.num_batches,
        dist.get_world_size(),
        device,
    )
    if assignment.profile_steps:
        profile(assignment, sharded, reader, anchor=anchor, directory=directory)
        return
    if origin.resume_from is not None:
        path, step = origin.resume_from
        log.info("resumed at step=%d of %d (%s), time number %d", step, reader.num_batches, path, origin.resumed)
    saver = None
    if assignment.checkpoint_seconds:
        saver = WaypointSaver(assignment, plan=sharded.plan, resumed=origin.resumed, began=started)
    touched = Touched(config)
    for weights, rows in newcomers(config, maps):
        touched.add(weights, rows)
    values = learn(
        sharded,
        reader,
        touched=touched,
        anchor=anchor,
        tasks=config.task_names,
        cold_start=assignment.parent is None,
        new_tasks=() if carried is None else carried.new_tasks,
        saver=saver,
        resume_from=origin.resume_from,
    )
    beat(Phase.SAVING)
    seal_day(
        assignment,
        sharded,
        num_examples=reader.num_rows,
        values=values,
        began=started,
        resumed=origin.resumed,
        carried=carried,
        touched=touched,
    )


def open_reader(assignment: Assignment, maps: Mapping[str, IdMap]) -> DayReader:
    """This rank's share of the day's examples."""
    config = assignment.config
    return DayReader(
        Lake(assignment.lake),
        assignment.examples,
        Encoder(config.schema, tasks=config.task_names, maps=maps),
        batch_size=config.batch_size,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        seed=config.seed,
        where=config.examples,
    )


def profile(
    assignment: Assignment, sharded: sharding.ShardedModel, reader: DayReader, *, anchor: Anchor, directory: Path
) -> None:
    """Rank 0's profile, to the job's directory."""
    rank, config = dist.get_rank(), assignment.config
    with StepProfiler(assignment.profile_steps, device=sharded.device) as profiler:
        cold_start = assignment.parent is None
        learn(sharded, reader, tasks=config.task_names, cold_start=cold_start, anchor=anchor, profiler=profiler)
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
