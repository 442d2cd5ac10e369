"""A tiny user model: its source and recipe. Light to import, as what serves it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from features.schema import DenseFeature, Schema, SparseFeature, Table
from features.source import LogReader
from tests.towers import tiny_mix_tower, tiny_user_tower
from trainer.recipe import Recipe, Schedule, Task

START = date(2026, 1, 1)
DAYS = [START + timedelta(days=offset) for offset in range(6)]
GOOD = {"ne": 0.9, "calibration": 1.0, "auc": 0.7}


@dataclass(frozen=True, kw_only=True)
class TinySource:
    """A source without a log."""

    name: str = "tiny"
    schema: Schema = field(
        default_factory=lambda: Schema(
            tables=(Table(name="topics", num_rows=50), Table(name="places", num_rows=20)),
            sparse=(
                SparseFeature(name="liked", table="topics"),
                SparseFeature(name="seen", table="topics"),
                SparseFeature(name="place", table="places", side="item"),
            ),
            dense=(DenseFeature(name="age", transform="log1p"),),
            tasks=("click",),
        )
    )
    day_starts_at: timedelta = timedelta(0)

    def open(self, *, landing: Path, data_dir: Path | None) -> LogReader:
        raise NotImplementedError


def tiny_recipe(*, pooling_versions: int = 3) -> Recipe:
    return Recipe(
        name="tiny",
        source=TinySource(),
        tasks=(Task(name="click"),),
        schedule=Schedule(start=START),
        user_tower=tiny_user_tower(dim=8),
        mix_tower=tiny_mix_tower(),
        pooling_versions=pooling_versions,
    )
