"""Writing embeddings (`features.table_files.TableFile`), against a raw write of the same vectors as float32.

Both fsync. Our writer lays out the columns, splits the floats' bytes, compresses, sums up pages and hashes; the raw
write does nothing, and puts more than twice the bytes on the disk. Layouts: bytes per vector of each, and the seconds
of writing all once. Vectors are drawn as a trained tower's are spread, rounded to float16.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.table_files import TableFile
from snapshots.embeddings import embeddings_schema, file_options, fp16_exact, to_lists
from snapshots.shards import USERS_PER_WINDOW
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread

GOAL = 0.5
DS = date(2026, 1, 1)
K, DIM = 2, 96
USERS, QUICK_USERS = 200_000, 20_000


def rows_of(num_users: int) -> pa.Table:
    """A day's embeddings, K computed and K pooled of D."""
    rng = np.random.default_rng(0)
    schema = embeddings_schema(num_embeddings=K, dim=DIM, model="bench")
    vectors = [
        to_lists(fp16_exact(rng.standard_normal((num_users, DIM), dtype=np.float32) * 0.7)) for _ in range(2 * K)
    ]
    when = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * num_users, schema.field("feature_time").type)
    counts = pa.array(np.full(num_users, 3, np.int8))
    ids = pa.array(np.cumsum(rng.integers(1, 9, num_users)))
    return pa.table([ids, *vectors, counts, pa.array(np.ones(num_users, np.int32)), when], schema=schema)


def halves(rows: pa.Table) -> pa.Table:
    """The vectors as 2 D bytes each: nobody else's reader takes them for numbers."""
    columns = {}
    for field in rows.schema:
        column = rows.column(field.name).combine_chunks()
        if pa.types.is_list(field.type):
            packed = column.values.to_numpy().astype(np.float16)
            buffer = pa.py_buffer(packed.tobytes())
            column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * DIM), len(column), [None, buffer])
        columns[field.name] = column
    return pa.table(columns)


def written(rows: pa.Table, home: Path, options: Mapping[str, Any]) -> Path:
    """By our writer, a window at a time."""
    with TableFile(str(home), DS, "rows.parquet", schema=rows.schema, options=options) as file:
        for begin in range(0, rows.num_rows, USERS_PER_WINDOW):
            file.write(rows.slice(begin, USERS_PER_WINDOW))
    return home / f"ds={DS}" / "rows.parquet"


def raw(content: bytes, path: Path) -> None:
    """One write and fsync."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def seconds(run: Callable[[], object]) -> float:
    """By the clock."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def layouts(rows: pa.Table, ours: Mapping[str, Any]) -> dict[str, tuple[pa.Table, dict[str, Any]]]:
    """Rows and writer options by name."""
    plain: dict[str, Any] = {**ours, "column_encoding": None, "use_dictionary": False, "compression_level": None}
    split = {**ours, "compression_level": None}
    return {
        "float32 byte-stream-split zstd 1 (ours)": (rows, dict(ours)),
        "float32 byte-stream-split zstd 3": (rows, {**ours, "compression_level": 3}),
        "float32 byte-stream-split lz4": (rows, {**split, "compression": "lz4"}),
        "float32 plain zstd 1": (rows, {**plain, "compression": "zstd", "compression_level": 1}),
        "float32 plain snappy": (rows, {**plain, "compression": "snappy"}),
        "float32 plain": (rows, {**plain, "compression": "none"}),
        "float16 bytes": (halves(rows), {**plain, "compression": "none"}),
        "float16 bytes zstd 1": (halves(rows), {**plain, "compression": "zstd", "compression_level": 1}),
    }


def main() -> None:
    """A line per layout, then the result."""
    options = options_of(parser(__doc__).parse_args())
    num_users = QUICK_USERS if options.quick else USERS
    rows = rows_of(num_users)
    ours = file_options(rows.schema)
    options.home.mkdir(parents=True, exist_ok=True)
    with machine() as found, tempfile.TemporaryDirectory(dir=options.home) as name:
        home = Path(name)
        for layout, (table, how) in layouts(rows, ours).items():
            took = seconds(lambda table=table, how=how: written(table, home, how))
            size = pq.read_metadata(path := home / f"ds={DS}" / "rows.parquet").num_rows and path.stat().st_size
            per_vector = round(size / num_users / (2 * K), 1)
            show({"layout": layout, "bytes_per_vector": per_vector, "seconds": round(took, 2)})
        size = written(rows, home, ours).stat().st_size
        content = np.concatenate([rows.column(1 + k).chunk(0).values.to_numpy() for k in range(2 * K)]).tobytes()
        turns = [
            (seconds(lambda: written(rows, home, ours)), seconds(lambda: raw(content, home / "raw")))
            for _ in range(1 + options.runs)
        ][1:]
    finish(
        "embedding_write", options=options, users=num_users, machine=found,
        bytes_per_vector=round(size / num_users / (2 * K), 1),
        vectors_mb_per_second=spread([len(content) / ours_took / 1e6 for ours_took, _ in turns]),
        disk_mb_per_second=spread([size / ours_took / 1e6 for ours_took, _ in turns]),
        raw_mb_per_second=spread([len(content) / raw_took / 1e6 for _, raw_took in turns]),
        goal=GOAL, ratio=statistics.median(raw_took / ours_took for ours_took, raw_took in turns),
    )  # fmt: skip


if __name__ == "__main__":
    main()
