"""What coarser numbers cost downstream (section 5.3): of the stored vectors, and of the user tower's tables.

The same tower, snapshots and examples; the vectors are rounded when they are computed, and their pooled average again,
as they are stored. The paper found no difference between fp32 and fp16. int4 is there to show that the measure would
see one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import numpy as np
import torch

from infra.experiments.finding import Cell, Column, Finding
from infra.experiments.following import Joined
from infra.experiments.lab import Computed, Lab
from infra.experiments.setting import Setting
from infra.experiments.study import Results, Study, Trial, Values
from infra.experiments.towers import DailyTowers, Vectors, outputs
from infra.experiments.variants import gain_of, measure_variants, names_asked, variants_table
from infra.experiments.verdicts import costs_nothing
from snapshots.embeddings import fp16_exact
from snapshots.pooling import LOOKBACK_DAYS
from snapshots.tables import OFFSET, SCALE, TABLES, Precision, table_weights
from trainer.downstream.arms import shape_of
from trainer.downstream.joined import NewestEmbeddings
from trainer.model.user_tower import UserTower

_SCALE_BYTES = 4


def in_steps(vectors: Vectors, *, bits: int) -> Vectors:
    """Every vector [..., D] in equal steps of its own, 2^bits - 1 of them, symmetric about 0.

    No value moves by more than half a step, max |x| / (2^bits - 2).
    """
    steps = 2 ** (bits - 1) - 1
    scale = np.abs(vectors).max(axis=-1, keepdims=True) / np.float32(steps)
    scale[scale == 0] = 1
    rounded: Vectors = np.rint(vectors / scale) * scale
    return rounded


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How vectors, and the tables that they come from, are held."""

    round: Callable[[Vectors], Vectors]
    bits: int
    scaled: bool = False
    """With a scale for each vector, float32."""
    tables: Precision = "fp32"

    def bytes_per_user(self, *, num_embeddings: int, dim: int) -> float:
        """Of the K vectors of D."""
        return num_embeddings * (dim * self.bits / 8 + self.scaled * _SCALE_BYTES)


REFERENCE = "fp32"
STORAGES: Mapping[str, Storage] = {
    "fp32": Storage(round=lambda vectors: vectors, bits=32),
    "fp16": Storage(round=fp16_exact, bits=16),
    "int8": Storage(round=partial(in_steps, bits=8), bits=8, scaled=True),
    "int4": Storage(round=partial(in_steps, bits=4), bits=4, scaled=True),
    "fp16, of fp16 tables": Storage(round=fp16_exact, bits=16, tables="fp16"),
    "fp16, of int8 tables": Storage(round=fp16_exact, bits=16, tables="int8"),
}


def measure(trial: Trial) -> Values:
    """`gains` of the storages, `bytes` per user, `table MiB` of the tower."""
    towers = trial.towers(trial.setting.user_models["a"])
    tower = towers.recipe.user_tower
    joins = {name: stored(trial.lab, towers, storage) for name, storage in STORAGES.items()}
    return {
        "gains": measure_variants(trial, joins, reference=REFERENCE),
        "bytes": {
            name: storage.bytes_per_user(num_embeddings=tower.num_embeddings, dim=tower.dim)
            for name, storage in STORAGES.items()
        },
        "table MiB": {name: table_mib(towers.towers[-1], storage.tables) for name, storage in STORAGES.items()},
    }


def conclude(setting: Setting, results: Results) -> Finding:
    """What each storage costs downstream, and saves."""
    seeds = sorted(results)

    def of(quantity: str) -> list[Cell]:
        return [results[seeds[0]]["all"][quantity][name] for name in STORAGES]

    table = variants_table(
        setting,
        results,
        variants=list(STORAGES),
        reference=REFERENCE,
        rows_are="vectors",
        costs=(
            (Column(title="bytes a user", digits=0), of("bytes")),
            (Column(title="tower's tables, MiB", digits=2), of("table MiB")),
        ),
    )
    verdicts = [
        costs_nothing(
            f"{consumer}: {name} makes no difference" + (" (section 5.3)." if name == "fp16" else "."),
            gain_of(results, consumer, name, "against"),
            gain=gain_of(results, consumer, REFERENCE),
        )
        for name in STORAGES
        if name != REFERENCE
        for consumer in names_asked(setting)
    ]
    return Finding(
        name=STUDY.name,
        title="Precision of vectors and tables",
        setting=setting.name,
        seeds=tuple(seeds),
        tables=(table,),
        verdicts=tuple(verdicts),
    )


def stored(lab: Lab, towers: DailyTowers, storage: Storage) -> Joined:
    """The user model's pooled vectors, held like that."""
    recipe = towers.recipe

    @cache
    def computed(day: int) -> Computed:
        tower = with_tables(towers.towers[day], storage.tables)
        vectors = storage.round(outputs(tower, recipe.schema, lab.users[day]))
        return Computed(user_ids=lab.users[day].ids, vectors=vectors)

    @cache
    def served(day: int) -> Computed:
        days = [computed(d) for d in range(max(day - LOOKBACK_DAYS, 0), day + 1)]
        return lab.pooled(days, versions=recipe.pooling_versions, stored=storage.round)

    @lru_cache(maxsize=1)  # the days come in turn, and every storage has its own
    def newest(day: int) -> NewestEmbeddings:
        return lab.newest({d: served(d) for d in range(max(day - LOOKBACK_DAYS, 0), day)}, day, as_fp16=False)

    return Joined(shapes=(shape_of(recipe.user_tower),), trained=newest)


def with_tables(tower: UserTower, precision: Precision) -> UserTower:
    """A copy whose tables hold what a snapshot of this precision gives back."""
    copy = deepcopy(tower)
    with torch.no_grad():
        for rows in _tables(copy):
            held = table_weights([rows], precision, dim=copy.dim)
            values = held[TABLES].float()
            rows.copy_(values * held[SCALE][:, None] + held[OFFSET][:, None] if SCALE in held else values)
    return copy


def _tables(tower: UserTower) -> list[torch.Tensor]:
    return [] if tower.sparse.tables is None else list(tower.sparse.tables.parameters())


def table_mib(tower: UserTower, precision: Precision) -> float:
    """What the tables take in memory, served like that."""
    held = table_weights([rows.detach() for rows in _tables(tower)], precision, dim=tower.dim)
    return sum(values.numel() * values.element_size() for values in held.values()) / 2**20


STUDY = Study(name="precision", measure=measure, conclude=conclude)
