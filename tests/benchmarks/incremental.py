"""Bytes written per day as increments, against full checkpoints of the same days: `demo`, `globo`, and a sparse world.

Which rows an increment holds follows from the day's ids alone, so nothing is learnt: every batch of every day is read,
hashed and marked as in training, and the state is then written in both forms by the code that seals a day, at one rank.
`ratio` is the bytes of a full checkpoint every day over the bytes that were written, the full ones among them;
`increment_ratio` leaves those out; `table_ratio` is of the tables' rows alone (the dense part, with its optimizer's two
moments, is written every day). The last line's is the sparse world's: in a small model a rule decides that increments
do not pay. Check-N-Run (NSDI'22) publishes 6 to 17 for increments that are quantised as well; these are exact. Seconds
are medians over days: a save is sealed (SHA-256, fsync, rename), a load reads from the disk and is verified, an
increment's with its base. `mark_ns` is the price in training, of CPU time per id.
"""

from __future__ import annotations

import shutil
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch.distributed as dist

from features.batches import Encoder
from features.lake import Lake, Partition
from features.reader import DayReader
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings
from tests.benchmarks.checkpoint import forget, timed
from tests.benchmarks.common.report import Options, finish, machine, options_of, parser, show
from tests.benchmarks.common.workloads import build_day, has_data
from trainer import sharding
from trainer.assignment import Assignment
from trainer.carryover.compare import compare, table_shapes
from trainer.carryover.document import ModelDocument
from trainer.checkpoint import hashed_part, partial_path, save_state, seal, verify
from trainer.config import TrainingConfig
from trainer.increments.form import Stored
from trainer.increments.touched import Touched
from trainer.pipeline import Steps
from trainer.recipe import Recipe
from trainer.recipes import get_recipe
from trainer.sealing import store
from trainer.trained import DOCUMENT, TrainedDay, find_base, to_json

GOAL = 6.0
DAYS = 7
"""One full checkpoint and the increments until the next."""
WORLDS = ("demo", "globo", "sparse")
"""The last is what the goal is about."""
_QUICK_EVENTS = 3_000


def recipe_of(world: str, *, quick: bool) -> Recipe:
    """sparse: the demo's towers over tables as large, for what is alive in them, as those of `fb_ctr` (7 %)."""
    recipe = get_recipe("globo" if world == "globo" else "demo")
    source = recipe.source
    if isinstance(source, SyntheticWorld):
        if world == "sparse":
            source = replace(
                source, name="sparse", num_sparse=40, vocabulary=10_000, rows_per_table=138_400, num_users=60_000
            )
        if quick:
            source = replace(source, name=f"{source.name}_quick", events_per_day=_QUICK_EVENTS)
    return replace(recipe, source=source)


@dataclass(frozen=True, kw_only=True)
class Written:
    """One day in both forms."""

    ds: date
    full_bytes: int
    written_bytes: int
    is_increment: bool
    save_full: float
    save: float
    load_full: float
    load: float
    mark_ns: float
    touched: dict[str, float]
    table_ratio: float
    """Rows of all tables over the rows touched since the last full one."""


class Bench:
    """One rank whose model is written day after day."""

    def __init__(self, recipe: Recipe, settings: Settings, *, folder: Path) -> None:
        self._recipe, self._settings, self._folder = recipe, settings, folder
        self._config = TrainingConfig.of(recipe)
        self._sharded = sharding.build(self._config, local_world_size=1)
        self._tables = table_shapes(self._config)
        self._last: TrainedDay | None = None

    def days(self, count: int) -> Iterator[Written]:
        """Written day by day."""
        for ds in self._recipe.schedule.first_days(count):
            examples = build_day(self._recipe.source, ds, self._settings)
            touched, nanoseconds = self._touched(examples)
            yield self._written(ds, examples, touched, mark_ns=nanoseconds)

    def _touched(self, examples: Partition) -> tuple[Touched, float]:
        """What the day looks up, and nanoseconds per id to mark it. The first day also takes a step, so that the
        optimizer has a state."""
        config = self._config
        encoder = Encoder(config.schema, tasks=config.task_names)
        reader = DayReader(Lake(self._settings.lake), examples, encoder, batch_size=config.batch_size)
        touched, seconds, num_ids = Touched(config), 0.0, 0
        for position, batch in enumerate(reader):
            if position == 0 and self._last is None:
                Steps(self._sharded, self._sharded.module).progress(iter([batch]))
            num_ids += batch.user_sparse.values().numel() + batch.item_sparse.values().numel()
            batch.user_sparse.offset_per_key()  # the model needs it as well, and it is kept
            batch.item_sparse.offset_per_key()
            began = time.thread_time()  # the reader has a thread of its own
            touched.mark(batch)
            seconds += time.thread_time() - began
        return touched, 1e9 * seconds / max(num_ids, 1)

    def _written(self, ds: date, examples: Partition, touched: Touched, *, mark_ns: float) -> Written:
        state = self._sharded.state_dict()
        full = self._folder / f"full-{ds}"
        partial = partial_path(full, token="bench")  # noqa: S106
        save_full = timed(lambda: (save_state(partial, state), seal(partial, full, documents={})))
        day, save = self._stored(ds, examples, touched)
        stored = day.stored
        assert stored is not None
        found = Written(
            ds=ds,
            full_bytes=bytes_of(full),
            written_bytes=bytes_of(day.path),
            is_increment=stored.base_ds is not None,
            save_full=save_full,
            save=save,
            load_full=self._load(full),
            load=self._load(day.path),
            mark_ns=mark_ns,
            touched=stored.touched,
            table_ratio=self._table_ratio(stored.touched),
        )
        shutil.rmtree(full)
        self._last = day
        return found

    def _stored(self, ds: date, examples: Partition, touched: Touched) -> tuple[TrainedDay, float]:
        """The day's checkpoint in the form that the rules choose, and the seconds of it."""
        parent, path = self._last, (self._folder / f"ds={ds}-bench").absolute()
        model = ModelDocument(config=self._config)
        assignment = Assignment(
            config=self._config,
            ds=ds,
            lake=self._settings.lake,
            examples=examples,
            parent=parent,
            fingerprint="f" * 64,
            revision=0,
            destination=path,
            lock=path,
            token="bench",  # noqa: S106
            device="cpu",
            deadline_seconds=600,
            base=None if parent is None else find_base(parent),
            checkpoints=self._recipe.checkpoints,
        )
        partial = partial_path(path, token="bench")  # noqa: S106
        began = time.perf_counter()
        carried = None if parent is None else compare(model, model)
        stored = store(assignment, self._sharded, partial, carried=carried, touched=touched)
        day = _day(assignment, stored)
        seal(
            partial,
            path,
            documents={DOCUMENT: to_json(day)},
            hashed=hashed_part(partial, rank=0),
            base=assignment.base.base if assignment.base is not None and stored.base_ds is not None else None,
        )
        return day, time.perf_counter() - began

    def _table_ratio(self, touched: dict[str, float]) -> float:
        rows = {name.removesuffix(".weight").rpartition(".")[2]: shape[0] for name, shape in self._tables.items()}
        return sum(rows.values()) / max(sum(rows[table] * share for table, share in touched.items()), 1)

    def _load(self, path: Path) -> float:
        for file in self._folder.rglob("*"):
            if file.is_file():
                forget(file)
        return timed(lambda: (verify(path), self._sharded.load(path)))


def _day(assignment: Assignment, stored: Stored) -> TrainedDay:
    return TrainedDay(
        model=assignment.config.name,
        ds=assignment.ds,
        fingerprint=assignment.fingerprint,
        parent_fingerprint=None,
        parent_ds=None,
        examples=assignment.examples,
        num_examples=0,
        metrics={},
        seconds=0,
        ranks=1,
        revision=0,
        path=assignment.destination,
        stored=stored,
    )


def bytes_of(path: Path) -> int:
    """On the disk, manifest and all."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure(world: str, recipe: Recipe, *, options: Options, days: int) -> dict[str, Any]:
    """The days of one world."""
    folder = options.home / "incremental" / world
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    settings = Settings(home=options.home, data_dir=options.data_dir, _env_file=None)
    found = list(Bench(recipe, settings, folder=folder).days(days))
    dist.destroy_process_group()
    shutil.rmtree(folder)
    increments = [day for day in found if day.is_increment] or found
    full, written = sum(day.full_bytes for day in found), sum(day.written_bytes for day in found)
    return {
        "world": world,
        "days": len(found),
        "increments": sum(day.is_increment for day in found),
        "full_mb": round(found[0].full_bytes / 1e6, 1),
        "written_mb": [round(day.written_bytes / 1e6, 1) for day in found],
        "touched_last_day": found[-1].touched,
        "save_full_s": round(statistics.median(day.save_full for day in found), 3),
        "save_increment_s": round(statistics.median(day.save for day in increments), 3),
        "load_full_s": round(statistics.median(day.load_full for day in found), 3),
        "load_increment_s": round(statistics.median(day.load for day in increments), 3),
        "mark_ns": round(statistics.median(day.mark_ns for day in found), 2),
        "increment_ratio": round(statistics.median(day.full_bytes / day.written_bytes for day in increments), 2),
        "table_ratio": round(statistics.median(day.table_ratio for day in found[1:] or found), 2),
        "ratio": round(full / written, 3),
    }


def main() -> None:
    """A line per world, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS, help="default: all at hand")
    arguments.add_argument("--days", type=int, default=DAYS, help=f"of each world (default {DAYS})")
    arguments.add_argument("--max-share", type=float, help="an increment takes of the bytes; default: the recipe's")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    worlds = [world for world in WORLDS if world in parsed.worlds and has_data(world, options=options)]
    if options.quick:
        worlds = [world for world in worlds if world != "globo"]
    results = []
    with machine() as seen:
        for world in worlds:
            recipe = recipe_of(world, quick=options.quick)
            if parsed.max_share is not None:
                recipe = replace(recipe, checkpoints=replace(recipe.checkpoints, increment_max_share=parsed.max_share))
            results.append(measure(world, recipe, options=options, days=2 if options.quick else parsed.days))
            show(results[-1])
    finish("incremental", options=options, results=results, machine=seen, goal=GOAL, ratio=results[-1]["ratio"])


if __name__ == "__main__":
    main()
