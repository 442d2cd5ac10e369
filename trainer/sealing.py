"""Seals what a day has learnt."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from trainer.assignment import Assignment
from trainer.carryover.compare import Comparison
from trainer.carryover.document import DOCUMENT as MODEL
from trainer.carryover.document import ModelDocument
from trainer.carryover.summary import summarise
from trainer.checkpoint import hashed_part, partial_path, save_state, seal
from trainer.identities import put_into, read_uses
from trainer.increments.form import Stored, why_full, why_unheld
from trainer.increments.rows import saved_rows
from trainer.increments.save import save_increment, sizes
from trainer.increments.touched import Touched
from trainer.locks import check_token
from trainer.planning import document
from trainer.trained import DOCUMENT, TrainedDay, to_json

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel

log = logging.getLogger(__name__)

_TABLES_SHOWN = 8


def seal_day(
    assignment: Assignment,
    sharded: ShardedModel,
    *,
    num_examples: int,
    values: dict[str, dict[str, float]],
    began: float,
    resumed: int,
    carried: Comparison | None,
    touched: Touched,
) -> None:
    """Save on every rank, seal on rank 0, unless a later attempt has taken the lock. began: when the day did
    (monotonic), as if never interrupted."""
    partial = partial_path(assignment.destination, token=assignment.token)
    stored = store(assignment, sharded, partial, carried=carried, touched=touched)
    hashed: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(hashed, hashed_part(partial, rank=dist.get_rank()))
    if dist.get_rank() == 0:
        if assignment.ids is not None:
            put_into(partial, assignment.ids)
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
            carried_over=None if carried is None else summarise(carried),
            tables=read_uses(assignment.ids) if assignment.ids is not None else (),
            stored=replace(stored, num_bytes=_bytes_of(partial)),
            where=assignment.config.examples,
        )
        _seal(assignment, trained, sharded, hashed={name: entry for part in hashed for name, entry in part.items()})
    dist.barrier()


def store(
    assignment: Assignment, sharded: ShardedModel, partial: Path, *, carried: Comparison | None, touched: Touched
) -> Stored:
    """Write this rank's part of the state, in the form that the rules choose; how. A collective."""
    state = sharded.state_dict()
    own = (
        ()
        if assignment.parent is None
        else saved_rows(assignment.parent.path, part=dist.get_rank(), parts=dist.get_world_size())
    )
    for table, rows in own if carried is not None and carried.tables_unchanged else ():
        touched.add(table, rows)
    touched.merge(sharded.device)
    increment_bytes, full_bytes = sizes(state, touched, device=sharded.device)
    why = why_full(
        assignment.checkpoints,
        ds=assignment.ds,
        base=assignment.base,
        carried=carried,
        unheld=why_unheld(assignment.config.optimizer, sharded.plan),
        increment_bytes=increment_bytes,
        full_bytes=full_bytes,
    )
    if why is None:
        save_increment(partial, state, touched)
    else:
        save_state(partial, state)
    return Stored(
        base_ds=assignment.base.ds if assignment.base is not None and why is None else None,
        why_full=why or "",
        num_bytes=0,
        full_bytes=full_bytes,
        touched=touched.shares(),
    )


def _bytes_of(partial: Path) -> int:
    return sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())


def _seal(
    assignment: Assignment, trained: TrainedDay, sharded: ShardedModel, *, hashed: dict[str, dict[str, Any]]
) -> None:
    stored = trained.stored
    assert stored is not None
    documents = {
        DOCUMENT: to_json(trained),
        document.DOCUMENT: sharded.plan.to_json(),
        MODEL: ModelDocument(config=assignment.config).to_json(),
    }
    seal(
        partial_path(assignment.destination, token=assignment.token),
        assignment.destination,
        documents=documents,
        hashed=hashed,
        base=assignment.base.base if assignment.base is not None and stored.base_ds is not None else None,
        may_publish=lambda: check_token(assignment.lock, token=assignment.token),
    )
    log.info(
        "sealed %s: %s bytes=%d full_bytes=%d touched %s",
        assignment.destination,
        stored.sentence,
        stored.num_bytes,
        stored.full_bytes,
        _shown(stored.touched),
    )


def _shown(touched: dict[str, float]) -> str:
    """The most touched tables."""
    most = sorted(touched.items(), key=lambda of: -of[1])
    more = f" and {len(most) - _TABLES_SHOWN} more" if len(most) > _TABLES_SHOWN else ""
    return " ".join(f"{table}={share:.4f}" for table, share in most[:_TABLES_SHOWN]) + more
