"""The classic DLRM and the advertising log that it is measured on."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import orc

from features.arrow import TIME, examples_schema
from features.fingerprint import file_sha256, fingerprint
from features.lake import Lake, Partition
from features.schema import EVENT_TIME, USER_ID, DenseFeature, Schema, SparseFeature, Table
from trainer.config import Dlrm, TrainingConfig
from trainer.recipe import Optimizer, Task

FOLDER = "criteo_like"
DS = date(2026, 1, 1)
NUM_ROWS = 262_144
"""The log's 40,000 rows, tiled: 256 batches of 1024."""
NUM_SPARSE, NUM_DENSE = 26, 13
TABLE_ROWS, DIM = 100_000, 64
POSITIVE_SHARE = 0.03

SCHEMA = Schema(
    tables=tuple(Table(name=f"c{i}", num_rows=TABLE_ROWS) for i in range(1, NUM_SPARSE + 1)),
    sparse=tuple(SparseFeature(name=f"c{i}", table=f"c{i}") for i in range(1, NUM_SPARSE + 1)),
    dense=tuple(DenseFeature(name=f"i{i}", transform="log1p") for i in range(1, NUM_DENSE + 1)),
    tasks=("label",),
)


def config() -> TrainingConfig:
    """26 single-id features of 100,000 rows of 64, bottom 512-256-64, over 512-512-256-1, Adagrad, batch 1024."""
    return TrainingConfig(
        name="dlrm",
        schema=SCHEMA,
        tasks=(Task(name="label"),),
        model=Dlrm(dim=DIM, bottom=(512, 256), over=(512, 512, 256)),
        optimizer=Optimizer(sparse="adagrad", dense="adagrad", sparse_lr=0.01, dense_lr=0.01),
        batch_size=1024,
        seed=0,
    )


def commit(lake: Lake, folder: Path, *, num_rows: int) -> Partition:
    """The rows of `folder`'s ORC files, in a seeded random order, repeated until there are `num_rows`.

    Negative counts become 0 (their logarithm is taken), missing ids and counts stay missing.
    FileNotFoundError: no ORC file there.
    """
    files = sorted(folder.glob("*.orc"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.orc file; give the folder of the advertising log")
    table = f"examples/{FOLDER}_{num_rows}"
    if (found := lake.find(table, DS)) is not None:
        return found
    log = pa.concat_tables([orc.read_table(path) for path in files])
    repeats = -(-num_rows // log.num_rows)
    generator = np.random.default_rng(0)
    order = np.concatenate([generator.permutation(log.num_rows) for _ in range(repeats)])[:num_rows]
    rows = examples(log).take(pa.array(order))
    return lake.commit(table, DS, rows, fingerprint=fingerprint(num_rows, [file_sha256(path) for path in files]))


def commit_drawn(lake: Lake, *, num_rows: int) -> Partition:
    """Rows of the same layout without the log: ids uniform over four times a table's rows, labels of 3 %."""
    table = f"examples/drawn_{num_rows}"
    if (found := lake.find(table, DS)) is not None:
        return found
    generator = np.random.default_rng(0)
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32))
    columns = {USER_ID: pa.array(np.arange(num_rows)), EVENT_TIME: _times(num_rows)}
    for feature in SCHEMA.sparse:
        ids = pa.array(generator.integers(0, 4 * TABLE_ROWS, num_rows))
        columns[feature.name] = pa.ListArray.from_arrays(offsets, ids)
    for dense in SCHEMA.dense:
        columns[dense.name] = pa.array(generator.integers(0, 100, num_rows))
    columns["label"] = pa.array(generator.random(num_rows) < POSITIVE_SHARE)
    return lake.commit(table, DS, _table(columns), fingerprint=fingerprint(table))


def examples(log: pa.Table) -> pa.Table:
    """The log in the layout of the lake; every column of it holds lists of at most one value."""
    columns: dict[str, pa.Array] = {
        USER_ID: pa.array(np.arange(log.num_rows)),
        EVENT_TIME: _times(log.num_rows),
    }
    for feature in SCHEMA.sparse:
        columns[feature.name] = log[feature.name].combine_chunks()
    for dense in SCHEMA.dense:
        columns[dense.name] = pc.max_element_wise(_only(log[dense.name]), 0.0, skip_nulls=False)
    columns["label"] = _only(log["label"])
    return _table(columns)


def _times(num_rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(datetime(DS.year, DS.month, DS.day, tzinfo=UTC), TIME), num_rows)


def _table(columns: dict[str, pa.Array]) -> pa.Table:
    layout = examples_schema(SCHEMA)
    return pa.table([columns[field.name].cast(field.type) for field in layout], schema=layout)


def _only(lists: pa.ChunkedArray) -> pa.Array:
    """The value of each list, null where it is empty."""
    column = lists.combine_chunks()
    values = np.full(len(column), np.nan)
    values[column.value_lengths().to_numpy(zero_copy_only=False) > 0] = column.flatten().to_numpy()
    return pa.array(values, from_pandas=True)
