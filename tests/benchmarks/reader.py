"""Arrow -> KeyedJaggedTensor batches (`features.reader.DayReader`), against a raw scan of the same Parquet columns.

The limit is the scan: decoding the columns, in the layout in which they are stored, on one thread, and throwing them
away. The reader does the same, then shuffles, hashes and lays out the batch. Both run without threads of their own, in
turns, so that what else the machine does falls on both; the ratio is the median of the turns' ratios of rows/s by the
clock (`cpu_ratio`: by CPU time). Rows are of the synthetic world; `--layouts` measures what packing is worth,
`--selection` what selecting examples costs.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa

from features import schema
from features.batches import Encoder
from features.examples import build_examples
from features.lake import Lake, Partition
from features.reader import DayReader
from features.selection import Selection
from features.sources.synthetic import SyntheticWorld
from features.windows import selected
from infra.settings import Settings

GOAL = 0.5
DS = date(2026, 1, 1)
BATCH_SIZE = 1024
ROWS = {26: 60_000, 100: 40_000, 600: 10_000}
"""Rows of the day, by number of user-side sparse features."""
LAYOUTS = {"as stored": schema.PACKED_FROM, "packed": 1, "a column per feature": 1_000_000}
"""`schema.PACKED_FROM` by layout."""


def scan(lake: Lake, partition: Partition, columns: list[str]) -> int:
    """Decode the columns batch by batch, on one thread."""
    scanner = lake.dataset(partition).scanner(columns=columns, use_threads=False)
    return sum(batch.num_rows for batch in scanner.to_batches())


def read(lake: Lake, partition: Partition, encoder: Encoder, where: tuple[Selection, ...] = ()) -> int:
    """Every batch of the day, without the prefetching thread."""
    reader = DayReader(lake, partition, encoder, batch_size=BATCH_SIZE, rank=0, world_size=1, seed=0, where=where)
    return sum(int(batch.weights.sum()) for batch in reader.batches())


def rates(run: Callable[[], int]) -> tuple[float, float]:
    """Rows per second, by the clock and by the CPU, of something that returns how many rows it read."""
    started, cpu = time.perf_counter(), time.process_time()
    rows = run()
    return rows / (time.perf_counter() - started), rows / (time.process_time() - cpu)


def measure(num_sparse: int, *, num_dense: int, layout: str, runs: int, home: Path) -> dict[str, float | int | str]:
    """Both rates on one day of a world with `num_sparse` user-side id lists."""
    schema.PACKED_FROM = LAYOUTS[layout]
    world = SyntheticWorld(
        name=f"wide{num_sparse}", num_sparse=num_sparse, num_dense=num_dense, events_per_day=ROWS[num_sparse]
    )
    settings = Settings(home=home, _env_file=None)
    partition = build_examples(world, DS, settings=settings, reject_max_share=0).examples
    lake, encoder = Lake(settings.lake), Encoder(world.schema, tasks=world.schema.tasks)
    turns = [
        (rates(lambda: read(lake, partition, encoder)), rates(lambda: scan(lake, partition, encoder.columns)))
        for _ in range(1 + runs)
    ][1:]
    ours, limit = ([turn[side][0] for turn in turns] for side in (0, 1))
    ratios = [mine[0] / of_scan[0] for mine, of_scan in turns]
    return {
        "features": num_sparse,
        "dense": num_dense,
        "layout": "packed" if world.schema.is_packed("user") else "a column per feature",
        "rows_per_second": round(statistics.median(ours)),
        "slowest": round(min(ours)),
        "fastest": round(max(ours)),
        "scan_rows_per_second": round(statistics.median(limit)),
        "rows_per_cpu_second": round(statistics.median(mine[1] for mine, _ in turns)),
        "scan_rows_per_cpu_second": round(statistics.median(of_scan[1] for _, of_scan in turns)),
        "cpu_ratio": round(statistics.median(mine[1] / of_scan[1] for mine, of_scan in turns), 3),
        "lowest_ratio": round(min(ratios), 3),
        "highest_ratio": round(max(ratios), 3),
        "ratio": round(statistics.median(ratios), 3),
    }


def measure_selection(num_sparse: int, *, num_dense: int, runs: int, home: Path) -> dict[str, float | int]:
    """What it costs to read the half of a day that a selection leaves, beside the whole day and beside a day that holds
    that half alone: CPU seconds, opening included."""
    half = (Selection(column="item_domain", values=(0,)),)
    world = SyntheticWorld(
        name=f"wide{num_sparse}", num_sparse=num_sparse, num_dense=num_dense, events_per_day=ROWS[num_sparse]
    )
    settings = Settings(home=home, _env_file=None)
    whole = build_examples(world, DS, settings=settings, reject_max_share=0).examples
    lake, encoder = Lake(settings.lake), Encoder(world.schema, tasks=world.schema.tasks)
    rows = lake.read(whole)
    alone = lake.commit("examples/half", DS, rows.filter(pa.array(selected(rows, half))), fingerprint="f" * 20)
    turns = [
        (
            seconds(lambda: read(lake, whole, encoder, half)),
            *(seconds(lambda p=p: read(lake, p, encoder)) for p in (whole, alone)),
        )
        for _ in range(1 + runs)
    ][1:]
    return {
        "features": num_sparse,
        "selected_cpu_seconds": round(statistics.median(turn[0] for turn in turns), 3),
        "of_the_whole_day": round(statistics.median(turn[0] / turn[1] for turn in turns), 3),
        "of_a_day_of_that_half": round(statistics.median(turn[0] / turn[2] for turn in turns), 3),
    }


def seconds(run: Callable[[], int]) -> float:
    """Of the CPU."""
    cpu = time.process_time()
    run()
    return time.process_time() - cpu


def main() -> None:
    """Print a line per width, then the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each, after one warm-up")
    parser.add_argument("--dense", type=int, default=8, help="user-side dense features")
    parser.add_argument("--layouts", action="store_true", help="measure both layouts at every width")
    parser.add_argument("--selection", action="store_true", help="measure what selecting half of the day costs")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.selection:
        for num_sparse in ROWS:
            with tempfile.TemporaryDirectory() as home:
                found = measure_selection(num_sparse, num_dense=options.dense, runs=options.runs, home=Path(home))
            print(json.dumps(found), flush=True)
        return
    results = []
    for layout in [name for name in LAYOUTS if (name != "as stored") == options.layouts]:
        for num_sparse in ROWS:
            with tempfile.TemporaryDirectory() as home:
                results.append(
                    measure(num_sparse, num_dense=options.dense, layout=layout, runs=options.runs, home=Path(home))
                )
            print(json.dumps(results[-1]), flush=True)
    worst = min(float(result["ratio"]) for result in results)
    print(json.dumps({"benchmark": "reader", "runs": options.runs, "results": results, "goal": GOAL, "ratio": worst}))


if __name__ == "__main__":
    main()
