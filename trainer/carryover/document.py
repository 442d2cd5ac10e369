"""`model.json`: what a checkpoint holds, for the day that warm-starts from it with another recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from features.hashing import HASHING
from features.schema import HASHED
from trainer.checkpoint import read_document
from trainer.config import TrainingConfig

DOCUMENT = "model.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelDocument:
    """The config that the weights were learnt with: tables (name, rows), features, tasks, towers, optimizer."""

    config: TrainingConfig
    hashing: str = HASHING
    """How ids became rows."""
    format: int = _FORMAT

    def to_json(self) -> str:
        """The document."""
        return _DOCUMENTS.dump_json(self, indent=1).decode()


_DOCUMENTS: TypeAdapter[ModelDocument] = TypeAdapter(ModelDocument)


def assumed(config: TrainingConfig) -> ModelDocument:
    """What a checkpoint without a document holds if it holds today's model at all: all tables were hashed then."""
    tables = tuple(replace(table, ids=HASHED) for table in config.schema.tables)
    return ModelDocument(config=replace(config, schema=config.schema.with_tables(tables)))


def read_model(checkpoint: Path) -> ModelDocument | None:
    """The document of a sealed checkpoint; None for one that was written before there were any.

    ValueError for one that this version cannot read, DamagedCheckpointError for one that was changed.
    """
    text = read_document(checkpoint, DOCUMENT)
    if text is None:
        return None
    try:
        found = _DOCUMENTS.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{checkpoint / DOCUMENT} does not describe a model ({where}: {first['msg']}); train that day again"
        ) from error
    if found.format != _FORMAT:
        raise ValueError(
            f"{checkpoint / DOCUMENT} has format {found.format}, this version reads {_FORMAT}; train that day again"
        )
    return found
