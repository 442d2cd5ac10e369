"""Hashed against managed tables, at the same memory and at less: NE, bytes, seconds.

`python -m tests.experiments.identities --recipe globo --data … --days 4 --one-of 10` and `--recipe demo --drifting`.
Every variant learns the same days from the same seed in one process of one thread; one user of `--one-of` is kept, and
the tables that hold identities are made that much smaller. Prints a JSON line per variant, then a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow.compute as pc
import torch.distributed as dist

from features.batches import Encoder
from features.examples import build_examples
from features.fingerprint import fingerprint
from features.id_counts import count_ids
from features.id_map import IdMap, next_day
from features.lake import Lake
from features.reader import DayReader
from features.schema import HASHED, USER_ID, Managed, Table
from features.sources.synthetic import SyntheticWorld
from features.table_use import TableUse, table_use
from infra.settings import Settings
from trainer import sharding
from trainer.carryover.compare import tables_by_weights
from trainer.config import TrainingConfig
from trainer.identities import start_newcomers
from trainer.loop import learn
from trainer.recipe import Recipe
from trainer.recipes import get_recipe

IDENTITIES = ("user", "article", "item", "ids_")
"""Tables whose ids come and go, by the beginning of their names."""
DRIFTING = {"user_lifetime_days": 12, "item_lifetime_days": 4, "id_lifetime_days": 5, "drift_days": 10}
_SHARE = 1_000_003  # users are kept by a hash, not by their order


@dataclass(kw_only=True)
class Measured:
    """A variant over all days."""

    variant: str
    rows: int
    """Of the tables of identities, both sides'."""
    mib: float
    """Their weights and optimizer state on both sides, and the map as it lies in memory during the pass."""
    ne: dict[str, list[float]] = field(default_factory=dict)
    """Per task, day by day."""
    cpu_seconds: float = 0.0
    deciding_seconds: float = 0.0
    """Of them, to count ids and to decide."""
    collision_lookups: float = 0.0
    """Share of the last day's lookups of these tables whose row another id of the day uses too."""


def of_size(recipe: Recipe, *, size: float, ids: Managed | None) -> Recipe:
    """The recipe with its tables of identities `size` times as large, managed or hashed."""
    tables = [t for t in recipe.source.schema.tables if t.name.startswith(IDENTITIES)]
    rows = {t.name: max(round(t.num_rows * size), 2) for t in tables}
    shared = {name: replace(ids, overflow_rows=max(num // 50, 1)) if ids else HASHED for name, num in rows.items()}
    return replace(recipe, tables=tuple(Table(name=n, num_rows=num, ids=shared[n]) for n, num in rows.items()))


def run(recipe: Recipe, name: str, days: list[date], *, lake: Lake) -> Measured:
    """Learn the days one after the other."""
    config = TrainingConfig.of(recipe)
    sharded = sharding.build(config, local_world_size=1)
    maps: dict[str, IdMap] = {}
    of = {table.name: table for table in recipe.tables}
    dim = recipe.user_tower.dim
    rows = sum(table.num_rows for table in tables_by_weights(config).values() if table.name in of)
    found = Measured(variant=name, rows=rows, mib=rows * 4 * (dim + 1) / 2**20)
    began = time.process_time()
    for ds in days:
        partition = lake.get(f"examples/{recipe.source.name}", ds)
        deciding = time.process_time()
        uses: list[TableUse] = []
        for table_name, counts in count_ids(lake, partition, config.schema).items():
            table = config.schema.table(table_name)
            decided = None
            if isinstance(table.ids, Managed):
                decided = next_day(maps.get(table_name, IdMap.empty()), counts, ds, table)
                maps[table_name] = decided.map
            uses += [table_use(table, counts, decided)] if table_name in of else []
        start_newcomers(sharded, config, maps)
        found.deciding_seconds += time.process_time() - deciding
        encoder = Encoder(config.schema, tasks=config.task_names, maps=maps)
        reader = DayReader(lake, partition, encoder, batch_size=config.batch_size, seed=config.seed)
        values = learn(sharded, reader, tasks=config.task_names, cold_start=ds == days[0])
        for task, of_task in values.items():
            found.ne.setdefault(task, []).append(round(of_task["ne"], 4))
        lookups = sum(use.num_lookups for use in uses)
        found.collision_lookups = sum(use.collision_lookups * use.num_lookups for use in uses) / lookups
    found.cpu_seconds = time.process_time() - began
    found.mib += sum(2 * 12 * m.owning.ids.size for m in maps.values()) / 2**20
    return found


def kept_days(
    recipe: Recipe,
    days: list[date],
    *,
    settings: Settings,
    one_of: int,
    scratch: Path,
    kinds: tuple[str, ...] = ("examples",),
) -> Lake:
    """A lake with the examples of one user of `one_of`; kinds: these tables of the source."""
    lake, small = Lake(settings.lake), Lake(scratch / "kept")
    for ds in days:
        if lake.find(f"examples/{recipe.source.name}", ds) is None:
            build_examples(recipe.source, ds, settings=settings, reject_max_share=recipe.reject_max_share)
        for table in (f"{kind}/{recipe.source.name}" for kind in kinds if one_of > 1):
            partition = lake.get(table, ds)
            rows = lake.read(partition)
            hashed = pc.bit_wise_and(pc.multiply(rows[USER_ID], _SHARE), 2**31 - 1)
            kept = rows.filter(pc.equal(pc.subtract(hashed, pc.multiply(pc.divide(hashed, one_of), one_of)), 0))
            small.commit(table, ds, kept, fingerprint=fingerprint(partition.fingerprint, one_of))
    return lake if one_of == 1 else small


def cells(measured: Measured) -> Iterator[str]:
    """Of the Markdown table."""
    yield measured.variant
    yield f"{measured.rows:,}"
    yield f"{measured.mib:.1f}"
    for values in measured.ne.values():
        later = values[1:] or values
        yield f"{sum(later) / len(later):.4f}"
        yield f"{values[-1]:.4f}"
    yield f"{measured.collision_lookups:.0%}"
    yield f"{measured.cpu_seconds:.0f} ({measured.deciding_seconds:.1f})"


def main() -> None:
    """Print a JSON line per variant, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="globo")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--home", type=Path, help="where examples are, or are built; default: a temporary folder")
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--one-of", type=int, default=10, help="keep one user of so many")
    parser.add_argument("--sizes", type=float, nargs="*", default=[1.0, 0.25], help="times the recipe's rows")
    parser.add_argument("--batch-size", type=int, default=1024, help="of the one rank")
    parser.add_argument("--drifting", action="store_true", help="a synthetic world whose ids live for days")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    recipe = replace(get_recipe(options.recipe), batch_size=options.batch_size)
    if options.drifting:
        assert isinstance(recipe.source, SyntheticWorld), f"{options.recipe} has no synthetic world"
        source = replace(recipe.source, name="drifting", rows_per_table=2_000, events_per_day=40_000, **DRIFTING)
        recipe = replace(recipe, source=source)
    days = [recipe.schedule.start + timedelta(days=index) for index in range(options.days)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        settings = Settings(home=options.home or scratch, data_dir=options.data, _env_file=None)
        lake = kept_days(recipe, days, settings=settings, one_of=options.one_of, scratch=scratch)
        rows = []
        for size in options.sizes:
            for kind, ids in (("hashed", None), ("managed", Managed())):
                changed = of_size(recipe, size=size / options.one_of, ids=ids)
                measured = run(changed, f"{kind}, rows x {size:g}", days, lake=lake)
                print(json.dumps(asdict(measured)), flush=True)
                rows.append(f"| {' | '.join(cells(measured))} |")
        tasks = [
            title for task in recipe.tasks for title in (f"NE {task.name}, days 2 on", f"NE {task.name}, last day")
        ]
        titles = ["tables", "rows", "MiB", *tasks, "lookups that share a row", "CPU seconds (deciding)"]
        print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        print("\n".join(rows))
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
