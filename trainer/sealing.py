"""Seals what a day has learnt."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from trainer.assignment import Assignment
from trainer.carryover.document import DOCUMENT as MODEL
from trainer.carryover.document import ModelDocument
from trainer.carryover.summary import CarriedOver
from trainer.checkpoint import hashed_part, partial_path, save_state, seal
from trainer.locks import check_token
from trainer.planning import document
from trainer.trained import DOCUMENT, TrainedDay, to_json

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel

log = logging.getLogger(__name__)


def seal_day(
    assignment: Assignment,
    sharded: ShardedModel,
    *,
    num_examples: int,
    values: dict[str, dict[str, float]],
    began: float,
    resumed: int,
    carried_over: CarriedOver | None,
) -> None:
    """Save on every rank, seal on rank 0, unless a later attempt has taken the lock. began: when the day did
    (monotonic), as if never interrupted."""
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
            seconds=round(time.monotonic() - began, 3),
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
