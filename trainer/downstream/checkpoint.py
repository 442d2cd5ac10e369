"""Checkpoints of downstream models: sealed folders `ds=<ds>-<fingerprint>`, one per distinct retraining."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import load_file, save_file

from features.lake import Partition
from infra.settings import Settings
from trainer.checkpoint import is_complete, partial_path, remove_partial, seal, verify
from trainer.downstream.day import DownstreamDay, parse, to_json
from trainer.locks import exclusive
from trainer.recipes import consumers_of

log = logging.getLogger(__name__)

DOCUMENT = "downstream.json"
WEIGHTS = "state.safetensors"


class Checkpoints:
    """The trained days of one downstream model."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.folder = settings.checkpoints / "downstream" / model

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the one process that trains this model; LockedError names who has it."""
        with exclusive(self.folder / ".lock", token=uuid4().hex):
            yield

    def days(self) -> list[DownstreamDay]:
        """Every sealed retraining, by day and revision."""
        found = [_read(path) for path in self.folder.glob("ds=*")]
        return sorted((day for day in found if day is not None), key=lambda day: (day.ds, day.revision))

    def find(self, ds: date, fingerprint: str) -> DownstreamDay | None:
        """The day retrained from exactly these inputs, or None."""
        day = _read(self._path(ds, fingerprint))
        return day if day is not None and day.fingerprint == fingerprint else None

    def before(self, ds: date) -> DownstreamDay | None:
        """The newest trained day before `ds`, its newest revision; None if there is none."""
        return next((day for day in reversed(self.days()) if day.ds < ds), None)

    def load(self, day: DownstreamDay) -> dict[str, torch.Tensor]:
        """The tensors of a trained day; DamagedCheckpointError where a file is not what was sealed."""
        verify(day.path)
        return load_file(day.path / WEIGHTS)

    def seal(self, day: DownstreamDay, state: dict[str, torch.Tensor]) -> DownstreamDay:
        """Write weights and optimizer state beside their place and rename them there, all or nothing.

        The revision counts what the day was trained to before. The caller holds the lock.
        """
        final = self._path(day.ds, day.fingerprint)
        sealed = replace(day, path=final, revision=sum(other.ds == day.ds for other in self.days()))
        remove_partial(self.folder, final=final)
        partial = partial_path(final, token=uuid4().hex)
        partial.mkdir(parents=True)
        # The tables are views of one buffer, which safetensors refuses: copies.
        save_file({name: value.clone() for name, value in state.items()}, partial / WEIGHTS)
        seal(partial, final, documents={DOCUMENT: to_json(sealed)})
        return sealed

    def _path(self, ds: date, fingerprint: str) -> Path:
        return self.folder / f"ds={ds}-{fingerprint[:8]}"


def _read(path: Path) -> DownstreamDay | None:
    if not is_complete(path):
        return None
    try:
        return replace(parse((path / DOCUMENT).read_bytes()), path=path)
    except FileNotFoundError:
        return None
    except ValueError as error:  # pydantic's too
        log.warning("%s is no document of a trained day (%s): the day counts as untrained", path / DOCUMENT, error)
        return None


def days_that_joined(settings: Settings, upstream: str, embeddings: Collection[Partition]) -> tuple[date, ...]:
    """The days, oldest first, on which a model that consumes `upstream` learnt from one of these partitions."""
    newest = {(day.model, day.ds): day for name in consumers_of(upstream) for day in Checkpoints(settings, name).days()}
    wanted = {partition.content for partition in embeddings}
    joined = (day.ds for day in newest.values() if any(part.content in wanted for part in day.embeddings))
    return tuple(sorted(set(joined)))
