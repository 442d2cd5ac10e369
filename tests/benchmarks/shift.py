"""Shift between two days of embeddings (`snapshots.shift.consecutive_days`), against a plain read of the same columns.

Two tables of K = 2 embeddings of D = 32, computed and pooled, as a day commits them; four in five users are of both
days. The limit reads the columns of both days batch by batch and drops them, with Arrow's threads, as ours does. Ours
does everything the day pays for: it joins the days in the order of the users' hashes (through a temporary file), moves
every user through movement, moments and cross cosines, and measures neighbours and populations on samples. `stream` is
the share of it that grows with the table. Each is measured in a process of its own, whose peak memory is shown: ours
must not grow with the table. The last line's ratio is of rows/s at the larger size.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.schema import USER_ID
from features.table_files import TableFile
from infra.settings import REPOSITORY, child_environment
from snapshots.embeddings import embeddings_schema, file_options, fp16_exact, to_lists
from snapshots.shards import USERS_PER_WINDOW
from snapshots.shift.consecutive_days import columns_of, consecutive_days, layout_of
from snapshots.shift.ordered import Spool, common, num_buckets
from snapshots.shift.pair import Compared
from snapshots.shift.same_users import SameUsers
from tests.benchmarks.common.memory import peak_mib
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from trainer.recipes import get_recipe

GOAL = 0.2
DAYS = (date(2026, 1, 1), date(2026, 1, 2))
NUM_USERS = (200_000, 800_000)
_QUICK_USERS = (2_000, 4_000)

_CHURN = 5
"""One in so many users is of one day only."""
RECIPE = replace(get_recipe("demo"), slices=())
LAYOUT = layout_of(RECIPE)


def make_days(lake: Lake, num_users: int) -> list[Partition]:
    """Both days, made once."""
    rng = np.random.default_rng(num_users)
    ids = np.sort(rng.choice(2**40, num_users * (_CHURN + 1) // _CHURN, replace=False))
    num_columns, schema = len(LAYOUT.columns), embeddings_schema(num_embeddings=2, dim=LAYOUT.dim, model="demo")
    vectors = rng.normal(size=(len(ids), num_columns, LAYOUT.dim)).astype(np.float32)
    days = []
    for number, ds in enumerate(DAYS):
        key = fingerprint("shift benchmark", num_users, ds)
        rows = slice(number * num_users // _CHURN, None)
        moved = fp16_exact(vectors[rows] + np.float32(0.2 * number))
        columns = [
            pa.array(ids[rows]),
            *(to_lists(moved[:, place]) for place in range(num_columns)),
            pa.array(np.full(len(moved), 3, np.int8)),
            pa.array(np.ones(len(moved), np.int32)),
            pa.repeat(pa.scalar(0, schema.field("feature_time").type), len(moved)),
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
        name = f"user_embeddings/{num_users}"
        with TableFile(lake.uri(name), ds, f"{ds}.parquet", schema=schema, options=file_options(schema)) as file:
            for begin in range(0, table.num_rows, USERS_PER_WINDOW):
                file.write(table.slice(begin, USERS_PER_WINDOW))
        days.append(lake.commit_files(name, ds, [f"{ds}.parquet"], schema=schema, fingerprint=key))
    return days


def read(lake: Lake, days: list[Partition]) -> int:
    """Every row of both days, dropped."""
    columns = [USER_ID, *LAYOUT.columns]
    return sum(batch.num_rows for day in days for batch in lake.dataset(day).to_batches(columns=columns))


def stream(lake: Lake, days: list[Partition]) -> int:
    """The part that sees every user."""
    buckets = num_buckets(lake, days, LAYOUT)
    same = SameUsers(columns_of(RECIPE), dim=LAYOUT.dim)
    with (
        Spool(lake, days[0], LAYOUT, buckets=buckets) as before,
        Spool(lake, days[1], LAYOUT, buckets=buckets) as after,
    ):
        for users in zip(before.users(), after.users(), strict=True):
            a, b = common(*users)
            same.add(a.vectors, b.vectors)
        return before.num_users + after.num_users


def shift(lake: Lake, days: list[Partition]) -> int:
    """All of it."""
    version: Any = SimpleNamespace(number=2, ds=DAYS[1])
    pair = Compared(
        version=version, embeddings=days[1], users=days[1], parent=None, previous=days[0], examples=None,
        previous_users=None, previous_examples=None,
    )  # fmt: skip
    return sum(1 for _ in consecutive_days(RECIPE, pair, lake))


MEASURED: dict[str, Callable[[Lake, list[Partition]], int]] = {"read": read, "stream": stream, "shift": shift}


def child(name: str, root: str, num_users: int, runs: int) -> None:
    """Print the seconds of each run after a warm-up, and the peak memory, of this process."""
    lake = Lake(root)
    days = [lake.get(f"user_embeddings/{num_users}", ds) for ds in DAYS]
    num_rows = sum(lake.dataset(day).count_rows() for day in days)
    seconds = []
    for _ in range(1 + runs):
        started = time.perf_counter()
        MEASURED[name](lake, days)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"rates": [num_rows / s for s in seconds[1:]], "peak_mib": peak_mib()}))


def measure(name: str, lake: Lake, num_users: int, *, runs: int) -> dict[str, Any]:
    """Of a process of its own."""
    arguments = [sys.executable, "-m", "tests.benchmarks.shift", "--child", name, lake.root, str(num_users), str(runs)]
    ended = subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env=child_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """A line per size, then the result."""
    made = parser(__doc__)
    made.add_argument("--child", nargs=4, help="for the benchmark itself")
    parsed = made.parse_args()
    options = options_of(parsed)
    if parsed.child:
        name, root, num_users, runs = parsed.child
        return child(name, root, int(num_users), int(runs))
    lake = Lake(options.home / "shift")
    results = []
    with machine() as seen:
        for num_users in _QUICK_USERS if options.quick else NUM_USERS:
            make_days(lake, num_users)
            found = {name: measure(name, lake, num_users, runs=options.runs) for name in MEASURED}
            line = {"users": num_users}
            for name, of in found.items():
                line |= {f"{name}_rows_per_second": spread(of["rates"]), f"{name}_peak_mib": of["peak_mib"]}
            rates = {name: statistics.median(of["rates"]) for name, of in found.items()}
            line |= {"stream_ratio": round(rates["stream"] / rates["read"], 3)}
            results.append(line | {"ratio": round(rates["shift"] / rates["read"], 3)})
            show(results[-1])
    growth = results[-1]["shift_peak_mib"] / results[0]["shift_peak_mib"]
    finish(
        "shift", options=options, goal=GOAL, ratio=results[-1]["ratio"], results=results, machine=seen,
        peak_growth=round(growth, 2),
    )  # fmt: skip


if __name__ == "__main__":
    main()
