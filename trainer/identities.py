"""The id maps of a day: decided once by the launcher, read by every rank, sealed with the weights.

Decided maps wait in a sealed folder beside the day's waypoints, so that an attempt that goes on finds the same ones.
Light to import: the launcher decides without torch.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from features.columns import Ids
from features.id_counts import count_ids
from features.id_map import Decided, IdMap, next_day
from features.lake import Lake, Partition
from features.schema import Managed, Schema, Table
from features.table_use import TableUse, compact, table_use
from trainer.checkpoint import (
    DamagedCheckpointError,
    is_complete,
    partial_path,
    read_document,
    seal,
    verified_file,
    verify,
)
from trainer.config import TrainingConfig
from trainer.trained import TrainedDay

if TYPE_CHECKING:
    from trainer.sharding import ShardedModel

log = logging.getLogger(__name__)

FOLDER = "ids"
"""In a checkpoint, and beside waypoints."""
DOCUMENT = "tables.json"
_USES = TypeAdapter(tuple[TableUse, ...])


def map_name(table: str) -> str:
    """The file of a table's map, within a sealed folder."""
    return f"{FOLDER}/{table}.parquet"


def decide(
    folder: Path, config: TrainingConfig, examples: Partition, *, lake: Lake, parent: TrainedDay | None, token: str
) -> None:
    """Seal the maps of the day's managed tables, and how the day uses every table, as `folder`.

    Maps that an earlier attempt at the same day sealed are left as they are: its waypoints know their rows.
    """
    if is_complete(folder):
        try:
            verify(folder)
            return
        except DamagedCheckpointError as error:
            log.error("decided again: %s", error)
            shutil.rmtree(folder)
    started = time.monotonic()
    before = parent_maps(parent, config.schema)
    partial = partial_path(folder, token=token)
    (partial / FOLDER).mkdir(parents=True)
    uses = []
    for name, counts in count_ids(lake, examples, config.schema, where=config.examples).items():
        table = config.schema.table(name)
        decided: Decided | None = None
        if isinstance(table.ids, Managed):
            decided = next_day(before.get(name, IdMap.empty()), counts, examples.ds, table)
            decided.map.write(partial / map_name(name))
        uses.append(table_use(table, counts, decided))
    seal(partial, folder, documents={DOCUMENT: _USES.dump_json(tuple(uses), indent=1).decode()})
    log.info("ids of ds=%s counted in %.1f s", examples.ds, time.monotonic() - started)
    for line in compact(uses):
        log.info("tables: %s", line)


def parent_maps(parent: TrainedDay | None, schema: Schema) -> dict[str, IdMap]:
    """The parent's maps of the tables whose rows are still those."""
    from trainer.carryover.document import read_model

    document = read_model(parent.path) if parent is not None else None
    if parent is None or document is None:
        return {}
    tables = {table.name: table for table in document.config.schema.tables}
    kept = [t for t in schema.managed if t.name in tables and t.keeps_rows_of(tables[t.name])]
    return {table.name: _read(parent.path, table) for table in kept}


def read_maps(directory: Path, schema: Schema) -> dict[str, IdMap]:
    """The maps of the schema's managed tables in a sealed folder: decided ones, or a checkpoint.

    DamagedCheckpointError for a file that is missing, or not what was written.
    """
    return {table.name: _read(directory, table) for table in schema.managed}


def _read(directory: Path, table: Table) -> IdMap:
    return IdMap.read(verified_file(directory, map_name(table.name)))


def read_uses(folder: Path) -> tuple[TableUse, ...]:
    """How the day uses each table, in the schema's order."""
    return _USES.validate_json(read_document(folder, DOCUMENT) or "")


def put_into(checkpoint: Path, folder: Path) -> None:
    """Add the decided maps to a checkpoint that is being written."""
    for path in sorted((folder / FOLDER).glob("*")):  # brought from an archive without maps: no folder
        target = checkpoint / FOLDER / path.name
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another file system
            shutil.copyfile(path, target)


def newcomers(config: TrainingConfig, maps: Mapping[str, IdMap]) -> Iterator[tuple[str, Ids]]:
    """(name of the weights, rows whose owner is new) of every managed table."""
    from trainer.carryover.compare import tables_by_weights

    for name, table in tables_by_weights(config).items():
        if isinstance(table.ids, Managed):
            yield name, maps[table.name].newcomers


def start_newcomers(sharded: ShardedModel, config: TrainingConfig, maps: Mapping[str, IdMap]) -> None:
    """Give every row whose owner is new its initial weights and no optimizer state, on the rank that holds it.

    After the warm start, before the first step. A row without an owner is left as it is: nothing looks it up.
    """
    from trainer.model.initial import initialise_rows

    state = sharded.state_dict()
    for name, rows in newcomers(config, maps):
        if rows.size:
            moments = state["optim"]["state"].get(name, {}).values()
            initialise_rows(name, state["model"][name], list(moments), rows=rows, seed=config.seed)
