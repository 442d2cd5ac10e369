"""A day of the lake through S3 on loopback, against the bare requests for the same bytes, and against this disk.

Written: `Lake.commit_files` of files that are written for it, with upload, checksums and commit, beside obstore's `put`
of the same files. Scanned: `Lake.read` by a machine without the day (fetched to its cache, hashed, decoded) and by one
that has it, against obstore's `get` of the files alone. The server is moto's, a process of its own: it bounds both.
ratio: bare seconds, put and get, per second of ours, cold.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest

from features.lake import Lake, Partition
from features.object_store import object_store
from features.table_files import TableFile
from infra.settings import get_settings
from tests.benchmarks.common.report import finish, machine, options_of, parser, spread
from tests.object_store import BUCKET, ObjectServer, object_server

GOAL = 0.5
T = TypeVar("T")
DS, TABLE = date(2026, 1, 1), "examples/bench"
ROWS, QUICK_ROWS, FILES = 4_000_000, 100_000, 4


def day(num_rows: int) -> pa.Table:
    """Ids, and two lists of ids, as examples have them: about 40 bytes a row."""
    rng = np.random.default_rng(0)
    lists = [
        pa.ListArray.from_arrays(
            np.arange(0, 2 * num_rows + 1, 2, dtype=np.int32), rng.integers(0, 2**24, 2 * num_rows)
        )
        for _ in range(2)
    ]
    return pa.table({"user_id": rng.integers(0, 2**40, num_rows), "seen": lists[0], "liked": lists[1]})


def write(lake: Lake, rows: pa.Table, key: str) -> Partition:
    """As batch inference does: files, then one commit."""
    names = [f"{key}-{number}.parquet" for number in range(FILES)]
    for number, name in enumerate(names):
        with TableFile(lake.uri(TABLE), DS, name, schema=rows.schema, options={"compression": "lz4"}) as file:
            start, stop = (len(rows) * at // FILES for at in (number, number + 1))
            file.write(rows.slice(start, stop - start))
    return lake.commit_files(TABLE, DS, names, schema=rows.schema, fingerprint=key)


def timed(found: dict[str, float], name: str, run: Callable[[], T]) -> T:
    """Its result; its seconds are kept by name."""
    started = time.perf_counter()
    result = run()
    found[name] = time.perf_counter() - started
    return result


def turn(rows: pa.Table, number: int, folder: Path, server: ObjectServer) -> tuple[dict[str, float], int, int]:
    """Everything once, in places of its own: seconds by name, bytes of the files, requests of a cold scan."""
    seconds, key, cache = dict[str, float](), f"{number + 1:032x}", get_settings().home / "cache"
    remote, local = Lake(f"s3://{BUCKET}/{number}"), Lake(folder / str(number))
    for lake in (remote, local):
        write(lake, rows[:1], "0" * 32)  # the table is there
    files = timed(seconds, "write_local", lambda: write(local, rows, key)) and sorted(
        (folder / str(number)).rglob(f"ds=*/{key}*.parquet")
    )
    written = timed(seconds, "write", lambda: write(remote, rows, key))
    bare = object_store(f"s3://{BUCKET}/bare-{number}")
    timed(seconds, "put", lambda: [bare.put(path.name, path) for path in files])
    shutil.rmtree(cache)
    server.requests()
    timed(seconds, "scan", lambda: Lake(remote.root).read(written))
    requests = len(server.requests())
    timed(seconds, "get", lambda: [bare.get(path.name).bytes() for path in files])
    timed(seconds, "scan_cached", lambda: Lake(remote.root).read(written))
    timed(seconds, "scan_local", lambda: Lake(local.root).read(local.get(TABLE, DS)))
    return seconds, sum(path.stat().st_size for path in files), requests


def main() -> None:
    """One line."""
    options = options_of(parser(__doc__).parse_args())
    rows = day(QUICK_ROWS if options.quick else ROWS)
    options.home.mkdir(parents=True, exist_ok=True)
    with (
        machine() as found,
        object_server() as server,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir=options.home) as name,
    ):
        server.use(patch, USERMODEL_HOME=name)
        turns = [turn(rows, number, Path(name), server) for number in range(1 + options.runs)][1:]
    num_bytes = turns[0][1]
    finish(
        "object_store", options=options, rows=len(rows), megabytes=round(num_bytes / 1e6, 1), machine=found,
        requests_of_a_scan=turns[0][2],
        mb_per_second={
            what: spread([num_bytes / seconds[what] / 1e6 for seconds, *_ in turns], digits=1) for what in turns[0][0]
        },
        goal=GOAL,
        ratio=statistics.median((s["put"] + s["get"]) / (s["write"] + s["scan"]) for s, *_ in turns),
    )  # fmt: skip


if __name__ == "__main__":
    main()
