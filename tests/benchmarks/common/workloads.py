"""What is trained: a recipe's config and a day of examples in a lake, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

import pyarrow as pa

from features.examples import build_examples
from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from features.source import Source
from features.sources.synthetic import SyntheticWorld
from infra.settings import Settings
from tests.benchmarks.common import criteo
from tests.benchmarks.common.report import Options
from trainer.config import TrainingConfig
from trainer.recipe import Recipe
from trainer.recipes import get_recipe

GLOBO_ROWS = 65_536
"""Of the day's half a million: a pass of seconds, not of minutes."""
_QUICK_ROWS = {"demo": 3_000, "globo": 3_000, "fb_ctr_mini": 600, "dlrm": 6_000}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and the day that it learns."""

    config: TrainingConfig
    lake: str
    examples: Partition
    num_rows: int


def workload(name: str, *, options: Options, rows: int | None = None, drawn: bool = False) -> Workload:
    """By name: `demo`, `globo`, `fb_ctr_mini` or `dlrm`.

    rows: of the day, where the day is made; None: the usual number. drawn: where the advertising log is not at
    hand, make one up. ValueError: it needs real logs and has none.
    """
    rows = _QUICK_ROWS[name] if options.quick else rows
    if name == "dlrm":
        return _dlrm(options, rows or criteo.NUM_ROWS, drawn=drawn)
    if name == "globo":
        return _globo(options, rows or GLOBO_ROWS)
    return _synthetic(get_recipe(name), options, rows)


def has_data(name: str, *, options: Options) -> bool:
    """Whether the logs of `name` are at hand."""
    folder = {"globo": "globo", "dlrm": criteo.FOLDER}.get(name)
    return folder is None or (options.data_dir is not None and (options.data_dir / folder).is_dir())


def _settings(options: Options) -> Settings:
    return Settings(home=options.home, data_dir=options.data_dir, _env_file=None)


def build_day(source: Source, ds: date, settings: Settings) -> Partition:
    """The day's examples, made unless they are there."""
    lake = Lake(settings.lake)
    return (
        lake.find(f"examples/{source.name}", ds)
        or build_examples(source, ds, settings=settings, reject_max_share=0.05).examples
    )


def _synthetic(recipe: Recipe, options: Options, rows: int | None) -> Workload:
    """The first day of the recipe's world."""
    world = recipe.source
    assert isinstance(world, SyntheticWorld)
    if rows is not None:
        world = replace(world, name=f"{world.name}_{rows}", events_per_day=rows)
    settings = _settings(options)
    return _of(replace(recipe, source=world), build_day(world, recipe.schedule.start, settings), settings)


def _globo(options: Options, num_rows: int) -> Workload:
    """Clicks of the second day, whose users have a first one: rows spread over it evenly."""
    if not has_data("globo", options=options):
        raise ValueError(
            f"there is no globo/ under {options.data_dir}; set USERMODEL_DATA_DIR to the real logs' folder"
        )
    recipe, settings = get_recipe("globo"), _settings(options)
    name, start = f"{recipe.source.name}_{num_rows}", recipe.schedule.start
    lake = Lake(settings.lake)
    part = lake.find(f"examples/{name}", start)
    if part is None:
        _, second = (build_day(recipe.source, day, settings) for day in (start, start + timedelta(1)))
        whole = lake.read(second)
        spread = pa.array(range(0, whole.num_rows, max(whole.num_rows // num_rows, 1)))
        part = lake.commit(
            f"examples/{name}", start, whole.take(spread[:num_rows]), fingerprint=fingerprint(name, num_rows)
        )
    return _of(recipe, part, settings)


def _of(recipe: Recipe, examples: Partition, settings: Settings) -> Workload:
    num_rows = Lake(settings.lake).dataset(examples).count_rows()
    return Workload(config=TrainingConfig.of(recipe), lake=settings.lake, examples=examples, num_rows=num_rows)


def _dlrm(options: Options, num_rows: int, *, drawn: bool) -> Workload:
    """The classic DLRM on the advertising log, tiled."""
    settings = _settings(options)
    lake = Lake(settings.lake)
    if options.data_dir is not None and has_data("dlrm", options=options):
        examples = criteo.commit(lake, options.data_dir / criteo.FOLDER, num_rows=num_rows)
    elif drawn:
        examples = criteo.commit_drawn(lake, num_rows=num_rows)
    else:
        raise ValueError(
            f"there is no {criteo.FOLDER}/ under {options.data_dir}; give the folder that holds it with --data, "
            "or set USERMODEL_DATA_DIR"
        )
    return Workload(config=criteo.config(), lake=settings.lake, examples=examples, num_rows=num_rows)
