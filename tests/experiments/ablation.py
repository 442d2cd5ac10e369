"""NE with the small user tower without each of its feature extractors, and without the residual (Eq. 1).

`python -m tests.experiments.ablation --recipe globo --data … --days 2` trains every variant on the same days from
the same seed, in one process of one thread each, and prints one Markdown table of progressive NE. A variant takes as
long as a day of training each; `--only` picks some, so that two can run beside each other.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import torch.distributed as dist

from features.batches import Encoder
from features.examples import build_examples
from features.lake import Lake
from features.reader import DayReader
from infra.settings import Settings
from trainer import sharding
from trainer.config import TrainingConfig
from trainer.loop import learn
from trainer.recipe import Recipe
from trainer.recipes import get_recipe
from trainer.recipes.towers import small_user_tower
from trainer.towers import DeepCross, DotCompression, Mlp, MlpMixer, UserTower

VARIANTS: dict[str, Callable[[UserTower], UserTower]] = {
    "all": lambda tower: tower,
    "without MLP": lambda tower: tower.without(Mlp),
    "without dot compression": lambda tower: tower.without(DotCompression),
    "without deep cross net": lambda tower: tower.without(DeepCross),
    "without MLP-mixer": lambda tower: tower.without(MlpMixer),
    "without residual": lambda tower: replace(
        tower, modules=tuple(replace(module, residual=None) for module in tower.modules)
    ),
}


def train(recipe: Recipe, days: list[date], *, settings: Settings) -> Iterator[dict[str, float]]:
    """Progressive NE per task of each day."""
    config = TrainingConfig.of(recipe)
    lake = Lake(settings.lake)
    sharded = sharding.build(config, local_world_size=1)
    for ds in days:
        reader = DayReader(
            lake,
            lake.get(f"examples/{recipe.source.name}", ds),
            Encoder(config.schema, tasks=config.task_names),
            batch_size=config.batch_size,
            seed=config.seed,
        )
        values = learn(sharded, reader, tasks=config.task_names, cold_start=ds == days[0])
        yield {task: of_task["ne"] for task, of_task in values.items()}


def main() -> None:
    """Print a JSON line per variant, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="globo")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1024, help="of the one rank; default 1024")
    parser.add_argument("--home", type=Path, help="where examples are built; default: a temporary folder")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    recipe = replace(get_recipe(options.recipe), batch_size=options.batch_size)
    days = [recipe.schedule.start + timedelta(days=index) for index in range(options.days)]
    with tempfile.TemporaryDirectory() as scratch:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        settings = Settings(home=options.home or Path(scratch), data_dir=options.data, _env_file=None)
        for ds in days:
            build_examples(recipe.source, ds, settings=settings, reject_max_share=recipe.reject_max_share)
        tasks = [task.name for task in recipe.tasks]
        rows = []
        for name in options.only:
            started = time.process_time()
            varied = replace(recipe, user_tower=VARIANTS[name](small_user_tower()))
            values = list(train(varied, days, settings=settings))
            seconds = time.process_time() - started
            print(json.dumps({"variant": name, "ne": values, "cpu_seconds": round(seconds)}), flush=True)
            cells = [f"{of_day[task]:.4f}" for task in tasks for of_day in values]
            rows.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
        titles = [f"{task} {ds}" for task in tasks for ds in days]
        print(f"| user tower | {' | '.join(titles)} | CPU seconds |\n|{'---|' * (len(titles) + 2)}")
        print("\n".join(rows))
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
