"""Days of a user model in one process: trained once, its tower of every day kept, asked for any day's users.

The same training loop, optimizer and readers as the daily job, on one rank; nothing is published.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from features.batches import Encoder
from features.lake import Lake
from features.reader import DayReader
from features.schema import EVENT_TIME, USER_ID, Schema
from features.source import Source
from snapshots.embeddings import fp16_exact
from trainer import sharding
from trainer.anchor import Anchor
from trainer.carryover.compare import compare
from trainer.carryover.document import ModelDocument
from trainer.config import TrainingConfig
from trainer.locks import file_lock
from trainer.loop import learn
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.shards import local_parts

log = logging.getLogger(__name__)

_ROWS = 8_192
_PREFIX = "user_tower."

Vectors = NDArray[np.float32]
Say = Callable[[str], None]


TRAINED = "trained.json"


@dataclass(frozen=True, kw_only=True)
class DayOfUsers:
    """The active users of a day, one row each, ascending ids."""

    ids: NDArray[np.int64]
    times: pa.Array
    batches: tuple[pa.RecordBatch, ...]


def read_users(source: Source, ds: date, lake: Lake) -> DayOfUsers:
    """The day's user features."""
    rows = lake.read(lake.get(f"user_features/{source.name}", ds)).sort_by(USER_ID).combine_chunks()
    return DayOfUsers(
        ids=rows.column(USER_ID).to_numpy(),
        times=rows.column(EVENT_TIME).combine_chunks(),
        batches=tuple(rows.to_batches(max_chunksize=_ROWS)),
    )


@dataclass(kw_only=True)
class DailyTowers:
    """What was learnt day by day, and what it cost."""

    recipe: Recipe
    users: Sequence[DayOfUsers]
    towers: list[UserTower] = field(default_factory=list)
    ne: dict[str, list[float]] = field(default_factory=dict)
    """Per task, day by day, progressive."""
    cpu_seconds: list[float] = field(default_factory=list)
    teacher_mib: float = 0.0
    _embedded: dict[tuple[int, int], Vectors] = field(default_factory=dict)

    def embed(self, version: int, day: int) -> Vectors:
        """[N, K, D]: the users of the day by the tower of day `version`, as they would be stored. Both from 0."""
        if (version, day) not in self._embedded:
            self._embedded[version, day] = fp16_exact(
                outputs(self.towers[version], self.recipe.schema, self.users[day])
            )
        return self._embedded[version, day]

    def forget(self) -> None:
        """Drop the vectors that were computed; they are computed again when asked for."""
        self._embedded.clear()


def outputs(tower: UserTower, schema: Schema, users: DayOfUsers) -> Vectors:
    """[N, K, D]: what the tower gives for the users, float32."""
    encoder = Encoder(schema, sides=("user",))
    with torch.inference_mode():
        found = [tower(of.user_sparse, of.user_dense).numpy() for of in map(encoder.encode, users.batches)]
    return np.concatenate(found)


def train_days(
    recipe: Recipe,
    days: Sequence[date],
    *,
    lake: Lake,
    users: Sequence[DayOfUsers],
    say: Say = log.info,
    keep: Callable[[sharding.ShardedModel], None] = lambda _: None,
) -> DailyTowers:
    """Learn the days one after the other, with the recipe's regularizers; in a process group of one rank. keep: given
    the whole model after every day."""
    config = TrainingConfig.of(recipe)
    carried = compare(ModelDocument(config=config), ModelDocument(config=config))
    sharded = sharding.build(config, local_world_size=1)
    found = DailyTowers(recipe=recipe, users=users)
    for ds in days:
        encoder = Encoder(config.schema, tasks=config.task_names)
        partition = lake.get(f"examples/{recipe.source.name}", ds)
        reader = DayReader(
            lake, partition, encoder, batch_size=config.batch_size, seed=config.seed, where=config.examples
        )
        first, began = ds == days[0], time.process_time()
        anchor = Anchor(sharded, config, None if first else carried)
        values = learn(sharded, reader, tasks=config.task_names, cold_start=first, anchor=anchor)
        found.teacher_mib = max(found.teacher_mib, anchor.num_bytes / 2**20)
        anchor.release()
        found.cpu_seconds.append(time.process_time() - began)
        for task, of_task in values.items():
            found.ne.setdefault(task, []).append(of_task["ne"])
        found.towers.append(_tower(sharded, recipe))
        keep(sharded)
        say(f"{recipe.name} {ds}: {', '.join(f'NE {task} {of[-1]:.4f}' for task, of in found.ne.items())}")
    return found


def save_towers(towers: DailyTowers, folder: Path) -> None:
    """Every day's weights and what training gave, in a new folder; for whoever has it `locked`."""
    document = {"ne": towers.ne, "cpu_seconds": towers.cpu_seconds, "teacher_mib": towers.teacher_mib}
    with beside(folder) as partial:
        for day, tower in enumerate(towers.towers):
            save_file({name: value.contiguous() for name, value in tower.state_dict().items()}, weights(partial, day))
        (partial / TRAINED).write_text(json.dumps(document))


def load_towers(recipe: Recipe, folder: Path, *, users: Sequence[DayOfUsers]) -> DailyTowers | None:
    """What `save_towers` wrote of as many days; None where it did not finish."""
    if not folder.exists():
        return None
    found = DailyTowers(recipe=recipe, users=users, **json.loads((folder / TRAINED).read_text()))
    for day in range(len(users)):
        tower = UserTower(recipe.schema, recipe.user_tower)
        tower.load_state_dict(load_file(weights(folder, day)))
        found.towers.append(tower.eval().requires_grad_(False))
    return found


def locked(place: Path) -> AbstractContextManager[None]:
    """For one process at a time, until it ends: whoever comes second finds what the first has made."""
    return file_lock(place.with_name(f".{place.name}.lock"))


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """An empty folder that becomes `place` when it is whole; for whoever has it `locked`."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    yield partial
    partial.replace(place)


def weights(folder: Path, day: int) -> Path:
    """The file of a day, counted from 0."""
    return folder / f"day_{day:03d}.safetensors"


def _tower(sharded: sharding.ShardedModel, recipe: Recipe) -> UserTower:
    """A copy of what the one rank holds."""
    state = sharded.module.state_dict()
    tower = UserTower(recipe.schema, recipe.user_tower)
    with torch.no_grad():
        for name, copy in tower.state_dict().items():
            ((_, whole),) = local_parts(state[_PREFIX + name])
            copy.copy_(whole)
    return tower.eval().requires_grad_(False)  # matmul adds in another order for weights that are learnt
