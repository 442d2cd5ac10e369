"""Where a day's pass goes on after an attempt that was killed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.batches import Batch
from trainer import waypoints
from trainer.assignment import Assignment
from trainer.checkpoint import DamagedCheckpointError, discard, load_shards, verify
from trainer.sharding import ShardedModel
from trainer.waypoints import Waypoint

log = logging.getLogger(__name__)

_STEPS_TO_LAYOUT = 2
"""DistributedDataParallel counts gradients in the first step (its graph is static), sees their order in the second,
and lays its buckets out by that before the third."""


def find_waypoint(assignment: Assignment) -> tuple[Path, Waypoint] | None:
    """The newest waypoint of the day whose bytes are what was written. A collective.

    Damaged ones are set aside, and those of another number of ranks deleted: its readers cut the day otherwise.
    """
    while True:
        candidate: list[Any] = [_newest(assignment) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(candidate, src=0)
        if candidate[0] is None:
            return None
        path, waypoint = candidate[0]
        damage = _damage(path)
        if damage is None:
            return path, waypoint
        if dist.get_rank() == 0:
            _skip(path, damage)
        dist.barrier()


def _newest(assignment: Assignment) -> tuple[Path, Waypoint] | None:
    for path in waypoints.sealed(assignment.destination):
        try:
            waypoint = waypoints.read_waypoint(path)
        except DamagedCheckpointError as error:
            _skip(path, str(error))
            continue
        if waypoint.format != waypoints.FORMAT:
            log.warning("removed %s, written by another version", path)
        elif waypoint.ranks == dist.get_world_size() and waypoint.fingerprint == assignment.fingerprint:
            return path, waypoint
        else:
            log.warning("removed %s, saved at %d ranks: this job has %d", path, waypoint.ranks, dist.get_world_size())
        discard(path)
    return None


def _damage(path: Path) -> str | None:
    """What any rank found wrong, on every rank: each reads its share of the files."""
    found: str | None = None
    try:
        verify(path, part=dist.get_rank(), parts=dist.get_world_size())
    except (DamagedCheckpointError, OSError) as error:
        found = str(error)
    everywhere: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    return next((one for one in everywhere if one is not None), None)


def _skip(path: Path, damage: str) -> None:
    log.error("skipped the damaged waypoint %s (now %s): %s", path, waypoints.set_aside(path).name, damage)


def state_of(sharded: ShardedModel, own: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a waypoint holds: the model and its optimizer, and of each rank its `own` (metrics, touched rows) and its
    random state."""
    own = {**own, "random": torch.get_rng_state()}
    if sharded.device.type == "cuda":
        own["random_cuda"] = torch.cuda.get_rng_state(sharded.device)
    return {**sharded.state_dict(), "day": {f"rank={dist.get_rank()}": own}}


def restore(path: Path, sharded: ShardedModel, own: dict[str, torch.Tensor], *, step: int, batch: Batch) -> None:
    """Take the whole state of a waypoint, of that step; `own` is filled in place. A collective.

    batch: any batch, ready for a step. It is learnt first, and forgotten by what is loaded: the data-parallel wrapper
    lays out the gradients anew after a pass's second step, and their sums over three or more ranks depend on that
    layout in the last bit.
    """
    for _ in range(min(step, _STEPS_TO_LAYOUT)):
        rehearse(sharded, batch)
    sharded.load(path)
    state = {"day": state_of(sharded, own)["day"]}
    load_shards(path, state)
    found = state["day"][f"rank={dist.get_rank()}"]
    torch.set_rng_state(found["random"])
    if "random_cuda" in found:
        torch.cuda.set_rng_state(found["random_cuda"], sharded.device)


def rehearse(sharded: ShardedModel, batch: Batch) -> None:
    """Forward and backward of a batch whose weights are about to be replaced."""
    sharded.module.train()
    loss, _ = sharded.module(batch)
    torch.autograd.backward(loss)
    sharded.dense.zero_grad(set_to_none=True)
