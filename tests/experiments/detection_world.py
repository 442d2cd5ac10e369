"""A small synthetic world whose days run through the real steps, in one process of one thread."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from features.examples import build_examples
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings
from snapshots.diagnosis import diagnose
from snapshots.gate import Check, gate
from snapshots.inference import infer
from snapshots.judgement.check import SEVERITY
from snapshots.promotion import promote
from snapshots.publish import publish, publish_tower
from snapshots.registry import Registry, partition_from
from snapshots.shift.measure import check_shift
from snapshots.shift.rows import ShiftRow, read_rows
from tests.faults.__main__ import remove
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer import job
from trainer.assignment import read_assignment
from trainer.day import learn_day
from trainer.gate import Gate
from trainer.model.user_tower import UserTower
from trainer.recipe import Optimizer, Recipe, Schedule, Task
from trainer.trained import find_trained, load_user_tower

START = date(2026, 1, 1)
TowerEdit = Callable[[UserTower, float], None]

log = logging.getLogger(__name__)


def quiet_recipe(*, events_per_day: int = 10_000) -> Recipe:
    """About 1,400 active users a day."""
    return Recipe(
        name="detection",
        source=SyntheticWorld(
            name="detection",
            num_users=events_per_day // 6,
            num_items=400,
            events_per_day=events_per_day,
            num_sparse=6,
            num_dense=5,
            vocabulary=300,
            rows_per_table=2_500,
        ),
        tasks=(Task(name="click"), Task(name="conversion", weight=0.5)),
        schedule=Schedule(start=START),
        user_tower=tiny_user_tower(dim=16),
        mix_tower=tiny_mix_tower(),
        # NE of 10,000 events has a standard error of 0.01; the recipes, with six times as many, hold a rise of 0.02
        gate=Gate(ne_rise_hold=0.06),
        optimizer=Optimizer(sparse_lr=0.08, dense_lr=3e-3),
        batch_size=512,
    )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one day. causes: the kinds that the diagnosis named, most probable first."""

    ds: str
    fault: str
    magnitude: float
    verdict: str
    reasons: list[str]
    causes: list[str]
    sentences: list[str]
    values: dict[str, float] = field(repr=False)

    def write(self, path: Path) -> None:
        """Append it, so that a run that ends goes on from here."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def read_judged(path: Path) -> list[Judged]:
    """What was judged so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Judged(**json.loads(line)) for line in lines]


def days(num: int) -> list[date]:
    """The first `num`."""
    return [START + timedelta(days=offset) for offset in range(num)]


def settings_at(home: Path) -> Settings:
    """Of a home that knows nothing of this machine, with an MLflow store of its own."""
    store = f"sqlite:///{home.absolute()}/mlflow.db"
    return Settings(home=home.absolute(), mlflow_uri=store, ranks=1, device="cpu", _env_file=None)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Training in the block is done here: no launcher, no other process, one thread; the working directory is
    another."""

    def run_here(entry: str, arguments: list[str], *, ranks: int, directory: Path) -> None:
        assignment = read_assignment(Path(arguments[0]))
        learn_day(assignment, device=torch.device("cpu"), local_world_size=1, directory=directory)

    torch.set_num_threads(1)
    kept = job.run_ranks
    with TemporaryDirectory() as scratch, chdir(scratch):  # MLflow's artifacts land in the working directory
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        job.run_ranks = run_here
        try:
            yield
        finally:
            job.run_ranks = kept
            dist.destroy_process_group()


def quiet_day(recipe: Recipe, ds: date, *, settings: Settings) -> Judged:
    """The day as it comes, promoted whatever the gate says: a false alarm is overruled."""
    learn(recipe, ds, settings=settings)
    publish(recipe, ds, settings=settings)
    judged = judge(recipe, ds, settings=settings, fault="none", magnitude=0.0)
    promote(recipe, ds, settings=settings, by="gate" if judged.verdict == "promote" else "on-call")
    return judged


def learn(recipe: Recipe, ds: date, *, settings: Settings) -> None:
    """From the landed log to the day's weights."""
    build_examples(recipe.source, ds, settings=settings, reject_max_share=recipe.reject_max_share)
    job.train(recipe, ds, settings=settings)


def publish_edited(
    recipe: Recipe, ds: date, edit: TowerEdit, magnitude: float, *, settings: Settings, salt: str
) -> None:
    """The day's tower, published with other weights than were trained."""
    trained = find_trained(settings, recipe.name, ds)
    assert trained is not None, f"{ds} is not trained"

    def edited() -> UserTower:
        tower = load_user_tower(recipe, trained)
        with torch.no_grad():
            edit(tower, magnitude)
        return tower

    changed = replace(trained, fingerprint=fingerprint(trained.fingerprint, salt))
    publish_tower(recipe, changed, edited, settings=settings)


def judge(recipe: Recipe, ds: date, *, settings: Settings, fault: str, magnitude: float) -> Judged:
    """Embed the published version, measure, judge and diagnose it."""
    infer(recipe, ds, settings=settings)
    shift = check_shift(recipe, ds, settings=settings)
    decision = gate(recipe, ds, settings=settings)
    # of the checks, not of the decision: a day that was promoted stays so, and can be judged again by other rules
    verdict = max((check.verdict for check in decision.checks), key=SEVERITY.__getitem__)
    usual = _usual_rows(recipe, ds, settings=settings)
    causes = diagnose(shift.rows, usual, alarmed=verdict != "promote")
    return Judged(
        ds=ds.isoformat(),
        fault=fault,
        magnitude=magnitude,
        verdict=verdict,
        reasons=[check.sentence for check in decision.checks if check.verdict != "promote"],
        causes=[cause.kind for cause in causes],
        sentences=[cause.sentence for cause in causes],
        values={row.name: row.value for row in shift.rows} | _checked(decision.checks),
    )


def _usual_rows(recipe: Recipe, ds: date, *, settings: Settings) -> list[ShiftRow]:
    """The rows of the trailing promoted days; each is read once."""
    lake = Lake(settings.lake)
    promoted = Registry(settings).promoted(recipe.name, before=ds)[: recipe.gate.trailing_days]
    found = [partition_from(version.tags, "shift", version.ds) for version in promoted]
    return [row for partition in found if partition is not None for row in _rows_of(lake.root, partition)]


@lru_cache(maxsize=32)
def _rows_of(root: str, partition: Partition) -> tuple[ShiftRow, ...]:
    return read_rows(Lake(root), partition)


def _checked(checks: Iterable[Check]) -> dict[str, float]:
    found = {f"check {check.name}": check.value for check in checks}
    return {name: value for name, value in found.items() if value is not None}


def branch(home: Path, to: Path) -> Settings:
    """A copy of the home to plant faults in: hard links of what is written once, the store and the logs in full."""
    if to.exists():
        remove(to)
    shutil.copytree(
        home,
        to,
        copy_function=_link,
        ignore=shutil.ignore_patterns("logs", "locks", "*.jsonl", "*.db-*", ".within-*", "*.partial"),
    )
    return settings_at(to)


def _link(source: str, target: str) -> None:
    if Path(source).suffix == ".db":
        with closing(sqlite3.connect(source)) as store, closing(sqlite3.connect(target)) as copied:
            store.backup(copied)  # whole, though another process may be writing to it
    else:
        os.link(source, target)
