"""What a day's pass begins from: nothing, its parent, or a waypoint of an attempt at it that was killed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from trainer.assignment import Assignment
from trainer.carryover.compare import Comparison, compare
from trainer.carryover.document import DOCUMENT as MODEL
from trainer.carryover.document import ModelDocument, assumed, read_model
from trainer.carryover.load import carry_over
from trainer.carryover.summary import as_table, summarise
from trainer.checkpoint import verify
from trainer.config import TrainingConfig
from trainer.heartbeat import Phase, beat
from trainer.resume import find_waypoint
from trainer.trained import TrainedDay
from trainer.waypoints import Waypoint

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A day without a parent starts cold; one with a waypoint goes on where it was."""

    parent: TrainedDay | None
    waypoint: tuple[Path, Waypoint] | None

    @property
    def path(self) -> Path | None:
        """The checkpoint that weights and plan come from; None for a cold start."""
        if self.waypoint is not None:
            return self.waypoint[0]
        return None if self.parent is None else self.parent.path

    @property
    def resume_from(self) -> tuple[Path, int] | None:
        """The waypoint and its step."""
        return None if self.waypoint is None else (self.waypoint[0], self.waypoint[1].step)

    @property
    def resumed(self) -> int:
        """How often the day was resumed, this time included."""
        return 0 if self.waypoint is None else self.waypoint[1].resumed + 1

    @property
    def seconds(self) -> float:
        """That earlier attempts spent in the training loop."""
        return 0.0 if self.waypoint is None else self.waypoint[1].seconds


def find_origin(assignment: Assignment) -> Origin:
    """A collective. A profile begins from the parent."""
    waypoint = None if assignment.profile_steps else find_waypoint(assignment)
    return Origin(parent=assignment.parent, waypoint=waypoint)


def take_over(origin: Origin, sharded: ShardedModel, *, config: TrainingConfig) -> Comparison | None:
    """What the day shares with its parent, None for a cold start; `sharded` has the parent's weights after it, unless
    a waypoint is to be loaded and nothing of `config` needs them. A collective."""
    if origin.parent is None:
        return None
    if origin.waypoint is not None and not config.is_anchored:
        return compared(origin.parent, config)
    beat(Phase.LOADING)
    return warm_start(sharded, origin.parent, config=config)


def compared(parent: TrainedDay, config: TrainingConfig) -> Comparison:
    """What `config`'s model shares with the parent's; all of it where the parent does not say what it holds."""
    today = ModelDocument(config=config)
    return compare(read_model(parent.path) or assumed(config), today)


def warm_start(sharded: ShardedModel, parent: TrainedDay, *, config: TrainingConfig) -> Comparison:
    """Take over what `config`'s model shares with the parent's, weights and optimizer state, at any number of ranks,
    once its bytes are verified; the rest keeps its initial weights. A collective.

    RuntimeError for a parent without `model.json` that holds another model.
    """
    verify(parent.path, part=dist.get_rank(), parts=dist.get_world_size())
    dist.barrier()
    comparison = compared(parent, config)
    if comparison.is_unchanged:
        try:
            sharded.load(parent.path)
        except RuntimeError as error:
            if read_model(parent.path) is not None:
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
