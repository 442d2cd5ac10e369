"""A world over some days, in one process: user models trained day by day, their embeddings joined to examples.

The product's daily loop goes through Airflow, MLflow and sealed folders; an experiment that repeats it for many seeds
and variants cannot. Here the same code trains, pools and joins, and only the publication is left out: what a consumer
reads is the fp16 vectors that `usermodel snapshots infer` would have stored (tested against it).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch.distributed as dist

from features.columns import Ids
from features.fingerprint import fingerprint
from features.lake import Lake
from features.reader import DayReader
from features.source import Source
from infra.experiments.towers import (
    DailyTowers,
    DayOfUsers,
    Say,
    Vectors,
    load_towers,
    locked,
    read_users,
    save_towers,
    train_days,
)
from snapshots.embeddings import fp16_exact
from snapshots.pooling import LOOKBACK_DAYS
from trainer.config import TrainingConfig
from trainer.downstream.arms import own_features, small_tables
from trainer.downstream.joined import JoinedBatch, JoiningEncoder, Lookup, NewestEmbeddings
from trainer.recipe import DownstreamRecipe, Recipe

log = logging.getLogger(__name__)

EVALUATION_BATCH = 8_192


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a day's snapshot made of the day's active users; days are counted from 0."""

    user_ids: Ids
    """[U], ascending."""
    vectors: Vectors
    """[U, K, D], fp16-exact."""


@dataclass(kw_only=True)
class Lab:
    """The days of one source."""

    source: Source
    days: tuple[date, ...]
    lake: Lake
    folder: Path
    """Trained towers are kept here."""
    users: tuple[DayOfUsers, ...]
    say: Say = log.info
    _towers: dict[str, DailyTowers] = field(default_factory=dict)

    @classmethod
    def open(cls, source: Source, days: Sequence[date], *, lake: Lake, folder: Path, say: Say = log.info) -> Lab:
        """Of days that the lake has."""
        users = tuple(read_users(source, ds, lake) for ds in days)
        return cls(source=source, days=tuple(days), lake=lake, folder=folder, users=users, say=say)

    @cached_property
    def _examples(self) -> list[tuple[date, str]]:
        """Days and fingerprints of what is learnt from."""
        found = self.lake.find_all(f"examples/{self.source.name}", self.days)
        return [(ds, found[ds].fingerprint) for ds in self.days]

    def place(self, recipe: Recipe) -> Path:
        """Where what the recipe learns of these examples is kept: other examples, another place."""
        assert recipe.source == self.source, f"{recipe.name} learns from {recipe.source.name}"
        key = fingerprint(TrainingConfig.of(recipe), self._examples)[:16]
        return self.folder / f"{recipe.name}-{key}"

    def towers(self, recipe: Recipe) -> DailyTowers:
        """The user model trained over the days: trained once, then read from the folder, whoever comes second."""
        place = self.place(recipe)
        if place.name not in self._towers:
            with locked(place):
                found = load_towers(recipe, place, users=self.users)
                if found is None:
                    with one_rank():
                        found = train_days(recipe, self.days, lake=self.lake, users=self.users, say=self.say)
                    save_towers(found, place)
            self._towers[place.name] = found
        return self._towers[place.name]

    def computed(self, towers: DailyTowers, day: int, *, version: int | None = None) -> Computed:
        """The users of the day by the snapshot of day `version` (None: its own)."""
        return Computed(user_ids=self.users[day].ids, vectors=towers.embed(day if version is None else version, day))

    def pooled(
        self, computed: Sequence[Computed], *, versions: int, stored: Callable[[Vectors], Vectors] = fp16_exact
    ) -> Computed:
        """The last of these days, averaged with each user's `versions` - 1 most recent computed vectors of the days
        before it (section 5.2), as `snapshots.pooling` does; `stored` rounds the average."""
        newest = computed[-1]
        total, count = np.zeros_like(newest.vectors), np.ones(len(newest.user_ids), dtype=np.float32)
        for earlier in reversed(computed[:-1]):
            if bool((count >= versions).all()):
                break
            place = np.minimum(np.searchsorted(earlier.user_ids, newest.user_ids), len(earlier.user_ids) - 1)
            wanted = (earlier.user_ids[place] == newest.user_ids) & (count < versions)
            total[wanted] += earlier.vectors[place[wanted]]
            count[wanted] += 1
        return Computed(user_ids=newest.user_ids, vectors=stored((newest.vectors + total) / count[:, None, None]))

    def served(self, towers: DailyTowers, day: int, *, versions: int = 3) -> Computed:
        """What `user_embeddings/<model>` would hold of the day: the day's snapshot, pooled."""
        first = max(day - LOOKBACK_DAYS, 0)
        return self.pooled([self.computed(towers, d) for d in range(first, day + 1)], versions=versions)

    def newest(
        self,
        of_days: Mapping[int, Computed],
        day: int,
        *,
        lookback: int = LOOKBACK_DAYS,
        as_fp16: bool = True,
    ) -> NewestEmbeddings:
        """For the examples of `day`: each user's vectors of the newest day before it, at most `lookback` days back."""
        earlier = [d for d in range(day - 1, day - 1 - lookback, -1) if d in of_days]
        parts = [of_days[d] for d in earlier]
        ids, places = np.unique(np.concatenate([part.user_ids for part in parts]), return_index=True)
        ages = np.concatenate([np.full(len(p.user_ids), day - d) for p, d in zip(parts, earlier, strict=True)])
        vectors = np.concatenate([part.vectors for part in parts])[places]
        kept = vectors.astype(np.float16) if as_fp16 else vectors
        return NewestEmbeddings(user_ids=ids, vectors=kept, age_days=ages[places])

    def batches(
        self, consumer: DownstreamRecipe, day: int, embeddings: Mapping[str, Lookup], *, batch_size: int | None = None
    ) -> Iterator[JoinedBatch]:
        """The consumer's examples of the day, joined for each arm; batch_size: None for the consumer's."""
        schema = small_tables(self.source.schema)
        features = own_features(consumer, schema)
        encoder = JoiningEncoder(schema, task=consumer.task, features=features, embeddings=embeddings)
        examples = self.lake.get(f"examples/{self.source.name}", self.days[day])
        size = consumer.batch_size if batch_size is None else batch_size
        reader = DayReader(self.lake, examples, encoder, batch_size=size, seed=consumer.seed, where=consumer.examples)
        return (cast(JoinedBatch, batch) for batch in reader)


def with_seed(recipe: Recipe, source: Source, seed: int) -> Recipe:
    """The recipe in that world, its weights drawn from that seed."""
    return replace(recipe, source=source, seed=seed)


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone, unless there is one already."""
    if dist.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
