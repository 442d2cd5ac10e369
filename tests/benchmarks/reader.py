"""Arrow -> KeyedJaggedTensor batches (`features.reader.DayReader`), against a raw scan of the same Parquet columns.

The limit is the scan: decoding the columns on one thread and throwing them away. The reader does the same, then
shuffles, hashes and lays out the batch. Both run on one thread of one process; rows are of the synthetic world.
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

from features.batches import Encoder
from features.examples import build_examples
from features.lake import Lake, Partition
from features.reader import DayReader
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings

GOAL = 0.5
DS = date(2026, 1, 1)
BATCH_SIZE = 1024
ROWS = {26: 60_000, 100: 40_000, 600: 10_000}
"""Rows of the day, by number of user-side sparse features."""


def rows_per_second(run: Callable[[], int], *, runs: int) -> list[float]:
    """One warm-up, then `runs` timed runs of something that returns how many rows it read."""
    run()
    rates = []
    for _ in range(runs):
        started = time.perf_counter()
        rates.append(run() / (time.perf_counter() - started))
    return rates


def scan(lake: Lake, partition: Partition, columns: list[str]) -> int:
    """Decode the columns batch by batch, on one thread."""
    scanner = lake.dataset(partition).scanner(columns=columns, use_threads=False)
    return sum(batch.num_rows for batch in scanner.to_batches())


def read(lake: Lake, partition: Partition, encoder: Encoder) -> int:
    """Every batch of the day, without the prefetching thread."""
    reader = DayReader(lake, partition, encoder, batch_size=BATCH_SIZE, rank=0, world_size=1, seed=0)
    return sum(int(batch.weights.sum()) for batch in reader.batches())


def measure(num_sparse: int, *, runs: int, home: Path) -> dict[str, float | int]:
    """Both rates on one day of a world with `num_sparse` user-side id lists."""
    world = SyntheticWorld(name=f"wide{num_sparse}", num_sparse=num_sparse, events_per_day=ROWS[num_sparse])
    settings = Settings(home=home, _env_file=None)
    partition = build_examples(world, DS, settings=settings, reject_max_share=0).examples
    lake, encoder = Lake(settings.lake), Encoder(world.schema, tasks=world.schema.tasks)
    limit = rows_per_second(lambda: scan(lake, partition, list(encoder.columns)), runs=runs)
    ours = rows_per_second(lambda: read(lake, partition, encoder), runs=runs)
    return {
        "features": num_sparse,
        "rows_per_second": round(statistics.median(ours)),
        "slowest": round(min(ours)),
        "fastest": round(max(ours)),
        "scan_rows_per_second": round(statistics.median(limit)),
        "ratio": round(statistics.median(ours) / statistics.median(limit), 3),
    }


def main() -> None:
    """Print a line per width, then the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each, after one warm-up")
    runs: int = parser.parse_args().runs
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as home:
        results = []
        for num_sparse in ROWS:
            results.append(measure(num_sparse, runs=runs, home=Path(home)))
            print(json.dumps(results[-1]), flush=True)
    worst = min(float(result["ratio"]) for result in results)
    print(json.dumps({"benchmark": "reader", "runs": runs, "results": results, "goal": GOAL, "ratio": worst}))


if __name__ == "__main__":
    main()
