"""Checkpoints of downstream models: sealed folders `ds=<ds>-<fingerprint>`, one per distinct retraining."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from itertools import groupby
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import load_file, save_file

from features.lake import Partition
from infra.settings import Settings
from trainer.archive.archive import Archive
from trainer.archive.download import bring, read
from trainer.archive.keep import keep
from trainer.archive.lease import leased
from trainer.checkpoint import DamagedCheckpointError, is_complete, partial_path, remove_partial, seal, verify
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
        self._archive = Archive.of(settings)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the one process that trains this model; LockedError names who has it."""
        token = uuid4().hex
        with exclusive(self.folder / ".lock", token=token), leased(self._archive, self.folder, token=token):
            yield

    def days(self) -> list[DownstreamDay]:
        """Every sealed retraining, here or in the archive, by day and revision. One that is damaged there is named in
        the log and left out."""
        found = []
        for name in self._names():
            try:
                found.append(self._read(self.folder / name))
            except DamagedCheckpointError as error:
                log.error("no retraining: %s", error)
        return sorted((day for day in found if day is not None), key=lambda day: (day.ds, day.revision))

    def find(self, ds: date, fingerprint: str) -> DownstreamDay | None:
        """The day retrained from exactly these inputs, or None."""
        day = self._read(self._path(ds, fingerprint))
        return day if day is not None and day.fingerprint == fingerprint else None

    def keep(self, day: DownstreamDay) -> DownstreamDay:
        """The day, in the archive as well: another machine's, where that was first. NotArchivedError: run it again."""
        if day.path.is_dir():  # else it is there already
            keep(self._archive, day.path, document=DOCUMENT)
        found = self._read(day.path)
        assert found is not None, "it is sealed"
        return found

    def before(self, ds: date) -> DownstreamDay | None:
        """The newest trained day before `ds`, its newest revision; None if there is none. DamagedCheckpointError: the
        archive damaged one of that day; nobody goes on from an older one unasked."""
        earlier = [name for name in self._names() if name < f"ds={ds}"]
        for _, names in groupby(reversed(earlier), key=lambda name: name[: len(f"ds={ds}")]):
            found = [day for name in names if (day := self._read(self.folder / name)) is not None]
            if found:
                return max(found, key=lambda day: day.revision)
        return None

    def load(self, day: DownstreamDay) -> dict[str, torch.Tensor]:
        """The tensors of a trained day; DamagedCheckpointError where a file is not what was sealed."""
        if self._archive is not None:
            bring(self._archive, day.path)
        verify(day.path)
        return load_file(day.path / WEIGHTS)

    def seal(self, day: DownstreamDay, state: dict[str, torch.Tensor]) -> DownstreamDay:
        """Write weights and optimizer state beside their place and rename them there, all or nothing.

        The revision counts what the day was trained to before. The caller holds the lock.
        """
        final = self._path(day.ds, day.fingerprint)
        before = [name for name in self._names() if name.startswith(f"ds={day.ds}-") and name != final.name]
        sealed = replace(day, path=final, revision=len(before))
        remove_partial(self.folder, final=final)
        partial = partial_path(final, token=uuid4().hex)
        partial.mkdir(parents=True)
        # The tables are views of one buffer, which safetensors refuses: copies.
        save_file({name: value.clone() for name, value in state.items()}, partial / WEIGHTS)
        seal(partial, final, documents={DOCUMENT: to_json(sealed)})
        return self.keep(sealed)

    def _names(self) -> list[str]:
        """Of the sealed folders here and in the archive, by day."""
        here = {path.name for path in self.folder.glob("ds=*")}
        return sorted(here | (set() if self._archive is None else set(self._archive.names(self.folder))))

    def _read(self, path: Path) -> DownstreamDay | None:
        if is_complete(path):
            content = (path / DOCUMENT).read_bytes() if (path / DOCUMENT).is_file() else None
        else:
            content = None if self._archive is None else read(self._archive, path, DOCUMENT)
        return None if content is None else _parsed(content, path)

    def _path(self, ds: date, fingerprint: str) -> Path:
        return self.folder / f"ds={ds}-{fingerprint[:8]}"


def _parsed(content: bytes, path: Path) -> DownstreamDay | None:
    try:
        return replace(parse(content), path=path)
    except ValueError as error:  # pydantic's too
        log.warning("%s is no document of a trained day (%s): the day counts as untrained", path / DOCUMENT, error)
        return None


def days_that_joined(settings: Settings, upstream: str, embeddings: Collection[Partition]) -> tuple[date, ...]:
    """The days, oldest first, on which a model that consumes `upstream` learnt from one of these partitions."""
    newest = {(day.model, day.ds): day for name in consumers_of(upstream) for day in Checkpoints(settings, name).days()}
    wanted = {partition.content for partition in embeddings}
    joined = (day.ds for day in newest.values() if any(part.content in wanted for part in day.embeddings))
    return tuple(sorted(set(joined)))
