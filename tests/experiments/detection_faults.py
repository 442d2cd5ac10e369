"""The planted faults: each where it would arise, in the published weights or in the landed log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.arrow import IDS
from features.hashing import mixed
from features.lake import Lake
from features.schema import EVENT_TIME, USER_ID
from infra.settings import Settings
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe

TowerFault = Callable[[UserTower, float], None]
LogFault = Callable[[pa.Table, pa.Table, float, str], pa.Table]
"""(log, the user features of the day before, magnitude, feature) -> log."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault at one magnitude. kind: the cause that a diagnosis should name."""

    name: str
    kind: str
    magnitude: float
    unit: str
    tower: TowerFault | None = None
    log: LogFault | None = None
    feature: str = ""

    @property
    def label(self) -> str:
        """For tables: `rotated space 45 degrees`."""
        of = f" {self.feature}" if self.feature else ""
        return f"{self.name}{of} {self.magnitude:g} {self.unit}".strip()


def _last(tower: UserTower, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights [D, in] and the bias [D] that give embedding k, before its length is bounded."""
    rows = slice(k * tower.dim, (k + 1) * tower.dim)
    return tower.output.weight[rows], tower.output.bias[rows]


def rotate(tower: UserTower, degrees: float) -> None:
    """Every embedding by the angle, in D / 2 planes of a random basis."""
    generator = torch.Generator().manual_seed(7)
    basis = torch.linalg.qr(torch.randn(tower.dim, tower.dim, generator=generator))[0]
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.tensor([[torch.cos(angle), -torch.sin(angle)], [torch.sin(angle), torch.cos(angle)]])
    rotation = basis @ torch.block_diag(*[turn] * (tower.dim // 2)) @ basis.T
    for k in range(tower.num_embeddings):
        weight, bias = _last(tower, k)
        weight.copy_(rotation @ weight)
        bias.copy_(rotation @ bias)


def scale(tower: UserTower, factor: float) -> None:
    """Every embedding, before its length is bounded: a model that is near the bound cannot grow, and hardly shrinks."""
    tower.output.weight.mul_(factor)
    tower.output.bias.mul_(factor)


def collapse(tower: UserTower, share: float) -> None:
    """So many of the dimensions of embedding 0 say the same of everybody."""
    weight, _ = _last(tower, 0)
    weight[: max(round(share * tower.dim), 1)] = 0.0


def swap(tower: UserTower, _: float) -> None:
    """Embedding 0 where embedding 1 belongs, and the other way round."""
    order = torch.arange(tower.num_embeddings * tower.dim).roll(tower.dim)
    tower.output.weight.copy_(tower.output.weight[order].clone())
    tower.output.bias.copy_(tower.output.bias[order].clone())


def _hit(users: np.ndarray, share: float) -> np.ndarray:
    """The users whose values are hit: always the same ones."""
    return mixed(users).astype(np.float64) / 2.0**64 < share


def zero(log: pa.Table, before: pa.Table, share: float, feature: str) -> pa.Table:
    """The feature is 0 or an empty list, for so many of the users."""
    hit = _hit(log[USER_ID].to_numpy(), share)
    column = log[feature].combine_chunks()
    if pa.types.is_list(column.type):
        values = [[] if of_hit else ids for of_hit, ids in zip(hit, column.to_pylist(), strict=True)]
        return _with(log, feature, pa.array(values, IDS))
    return _with(log, feature, pa.array(np.where(hit, 0, column.to_numpy()).astype(np.float32)))


def stale(log: pa.Table, before: pa.Table, share: float, feature: str) -> pa.Table:
    """The feature is what it was at the end of the day before, for so many of the users that were there."""
    users, known = log[USER_ID].to_numpy(), before[USER_ID].to_numpy()
    order = np.argsort(known)
    places = np.clip(np.searchsorted(known[order], users), 0, len(known) - 1)
    found = (known[order][places] == users) & _hit(users, share)
    old = before[feature].combine_chunks().take(pa.array(order[places])).to_pylist()
    new = log[feature].combine_chunks()
    values = [a if hit else b for hit, a, b in zip(found, old, new.to_pylist(), strict=True)]
    return _with(log, feature, pa.array(values, new.type))


def part_of_day(log: pa.Table, before: pa.Table, share: float, feature: str) -> pa.Table:
    """The log ends when so much of the day is over."""
    times = log[EVENT_TIME].cast(pa.int64()).to_numpy()
    day_us = 86_400_000_000
    return log.filter(pa.array(times % day_us < share * day_us))


def _with(log: pa.Table, feature: str, values: pa.Array) -> pa.Table:
    place = log.schema.get_field_index(feature)
    return log.set_column(place, log.schema.field(place), values)


def plant_in_log(recipe: Recipe, ds: date, fault: Fault, *, settings: Settings, before: date) -> None:
    """Land the day's log with the fault in place of the log that is there. `before`: the day before, built."""
    (path,) = recipe.source.open(landing=settings.landing, data_dir=None).log_files(ds)
    kept = path.with_name("as-it-was")
    if not kept.exists():
        path.rename(kept)
    log = pq.read_table(kept, partitioning=None)
    lake = Lake(settings.lake)
    users = lake.read(lake.get(f"user_features/{recipe.source.name}", before))
    assert fault.log is not None
    changed = fault.log(log, users, fault.magnitude, fault.feature)
    Path(path).unlink(missing_ok=True)
    pq.write_table(changed.replace_schema_metadata(log.schema.metadata), path, compression="lz4")


def faults() -> list[Fault]:
    """Every fault, those in the weights first."""
    towers = [
        *(("rotated space", "rotated-space", degrees, "degrees", rotate) for degrees in (10, 20, 30, 45, 90)),
        *(("scaled norm", "scaled-norm", factor, "times", scale) for factor in (0.05, 0.1, 0.2, 0.5, 4)),
        *(("collapsed dimension", "collapsed-dimension", share, "of D", collapse) for share in (0.06, 0.25)),
        ("swapped pair", "swapped-pair", 1.0, "", swap),
    ]
    logs = [
        *(("broken feature", "broken-feature", s, "of users", zero, f) for s in (0.1, 1.0) for f in FEATURES),
        *(("stale feature", "stale-feature", s, "of users", stale, f) for s in (0.25, 1.0) for f in FEATURES),
        *(("part of the day", "partial-day", s, "of the day", part_of_day, "") for s in (0.5, 0.9)),
    ]
    return [
        *(Fault(name=n, kind=k, magnitude=m, unit=u, tower=edit) for n, k, m, u, edit in towers),
        *(Fault(name=n, kind=k, magnitude=m, unit=u, log=edit, feature=f) for n, k, m, u, edit, f in logs),
    ]


FEATURES = ("dense_001", "ids_000")
