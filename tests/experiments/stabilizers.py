"""What keeps embeddings from moving, side by side (section 5.2, Tables 3 and 4): shift, downstream NE, cost.

`python -m tests.experiments.stabilizers --days 14` runs whole days of every strategy in one process of one thread:
train, publish (align), infer (pool), retrain the downstream model, with and without embeddings. Strategies that differ
after training only share the trainings. `--skew` adds the version-skew sweep of `tests.experiments.version_skew`,
`--restart` the consumer of a model that was started anew (`tests.experiments.restart`).
Prints Markdown tables; `--json` a JSON line per strategy before them.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from features.lake import Lake, Partition
from features.schema import USER_ID
from features.sources.synthetic import SyntheticWorld
from infra.experiments.statistics import estimate
from infra.experiments.towers import DailyTowers, read_users, train_days
from infra.settings import Settings
from snapshots.embeddings import to_vectors
from snapshots.movement import Movement, movement
from tests.experiments.identities import kept_days
from tests.experiments.published import Published, Strategy
from tests.experiments.restart import restarted
from tests.experiments.version_skew import Skew, draw, sweep, table
from trainer.downstream.retrain import retrain_on
from trainer.recipe import DownstreamRecipe
from trainer.recipes import get_downstream, get_recipe
from trainer.stabilizers import BackwardCompatible, Distillation, L2ToPrevious, Procrustes, Regularizer

_NEAR = (Distillation(weight=0.01),)
STRATEGIES = (
    Strategy(name="none"),
    Strategy(name="pooling 3", pooling=3),
    Strategy(name="L2 0.003", regularizers=(L2ToPrevious(weight=0.003),)),
    Strategy(name="L2 0.1", regularizers=(L2ToPrevious(weight=0.1),)),
    Strategy(name="distillation 0.01", regularizers=_NEAR),
    Strategy(name="distillation 0.05", regularizers=(Distillation(weight=0.05),)),
    Strategy(name="distillation 0.5", regularizers=(Distillation(weight=0.5),)),
    Strategy(name="Procrustes", alignment=Procrustes()),
    Strategy(name="backward-compatible 0.001", alignment=BackwardCompatible(ridge=1e-3)),
    Strategy(name="backward-compatible 1", alignment=BackwardCompatible(ridge=1.0)),
    Strategy(name="Procrustes, pooling 3", alignment=Procrustes(), pooling=3),
    Strategy(name="distillation 0.01, pooling 3", regularizers=_NEAR, pooling=3),
)
WORLD = {"num_users": 2_000, "events_per_day": 20_000, "user_lifetime_days": 30, "id_lifetime_days": 20}
"""Smaller than the demo's, and faster."""


@dataclass(kw_only=True)
class Measured:
    """A strategy, day by day from the second on, as consumers see it."""

    strategy: str
    cosine: list[list[float]] = field(default_factory=list)
    """Per day, per embedding: mean over the users of both days."""
    norm_change: list[list[float]] = field(default_factory=list)
    train_ne: list[float] = field(default_factory=list)
    """Downstream, with the embeddings."""
    eval_ne: list[float] = field(default_factory=list)
    train_diff: list[float] = field(default_factory=list)
    """Percent against the baseline without embeddings."""
    eval_diff: list[float] = field(default_factory=list)
    eval_interval: list[tuple[float, float]] = field(default_factory=list)
    """By bootstrap over users."""
    upstream_ne: dict[str, list[float]] = field(default_factory=dict)
    train_cpu_seconds: float = 0.0
    """Per day."""
    align_cpu_seconds: float = 0.0
    """Per day, to fit and to apply; the users go through the snapshot before once more."""
    teacher_mib: float = 0.0


def run(
    strategy: Strategy, towers: DailyTowers, days: Sequence[date], *, downstream: DownstreamRecipe, settings: Settings
) -> tuple[Measured, Published]:
    """Publish, infer and retrain every day."""
    name = "".join(character if character.isalnum() else "_" for character in strategy.name)
    recipe = replace(towers.recipe, name=name)
    consumer = replace(downstream, name=name, upstreams=(name,))
    lake, published = Lake(settings.lake), Published(strategy=strategy, towers=towers)
    found = Measured(
        strategy=strategy.name,
        upstream_ne=towers.ne,
        train_cpu_seconds=float(np.mean(towers.cpu_seconds[1:])),
        teacher_mib=towers.teacher_mib,
    )
    for day, ds in enumerate(days):
        for version in range(max(day - 1, 0), day + 1):
            towers.embed(version, day)
        began = time.process_time()
        published.align(day)
        found.align_cpu_seconds += (time.process_time() - began) / len(days)
        if day:
            retrained = retrain_on(consumer, (recipe,), ds, settings=settings, promoted={name: published.partitions})
            found.train_ne.append(retrained.training.everyone.sum.ne or np.nan)
            found.train_diff.append(retrained.training.everyone.ne_diff_percent)
            if retrained.evaluation is not None:
                found.eval_ne.append(retrained.evaluation.everyone.sum.ne or np.nan)
                found.eval_diff.append(retrained.evaluation.everyone.ne_diff_percent)
                found.eval_interval.append(retrained.evaluation.everyone.interval or (np.nan, np.nan))
        published.infer(day, ds, lake=lake, users=towers.users[day], recipe=recipe)
        if day:
            moved = [
                _moved(lake, *published.partitions[-2:], column=f"pooled_{k}", dim=recipe.user_tower.dim)
                for k in range(recipe.user_tower.num_embeddings)
            ]
            found.cosine.append([float(one.cosine.mean()) for one in moved])
            found.norm_change.append([float(one.norm_change.mean()) for one in moved])
    return found, published


def versus(ne: Sequence[float], reference: Sequence[float]) -> str:
    """Percent against the reference on the same days, mean and 95 % interval over days (paired)."""
    percent = 100 * (np.array(ne) / np.array(reference) - 1)
    found = estimate(percent.tolist())
    return f"{found.mean:+.2f} ± {found.half or np.nan:.2f}"


def shown(found: Sequence[Measured], *, last: int) -> Iterator[str]:
    """The Markdown table: means over the `last` days."""
    tasks = list(found[0].upstream_ne)
    embeddings = range(len(found[0].cosine[0]))
    titles = ["strategy", *(f"cosine {k}" for k in embeddings), *(f"norm change {k}" for k in embeddings)]
    titles += ["train NE diff %", "eval NE diff %", "eval NE against none, %"]
    titles += [*(f"upstream NE {task}" for task in tasks), "training, CPU s a day", "align, CPU s a day", "teacher MiB"]
    yield f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"
    for one in found:
        cells = [one.strategy]
        cells += [f"{value:.3f}" for value in np.mean(one.cosine[-last:], axis=0)]
        cells += [f"{value:.3f}" for value in np.mean(one.norm_change[-last:], axis=0)]
        cells += [f"{np.mean(values[-last:]):+.2f}" for values in (one.train_diff, one.eval_diff)]
        cells += ["" if one is found[0] else versus(one.eval_ne[-last:], found[0].eval_ne[-last:])]
        cells += [f"{np.mean(one.upstream_ne[task][-last:]):.4f}" for task in tasks]
        cells += [f"{one.train_cpu_seconds:.1f}", f"{one.align_cpu_seconds:.2f}", f"{one.teacher_mib:.0f}"]
        yield f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo", help="`demo`: in a smaller and faster world")
    parser.add_argument("--downstream", help="default: <recipe>_ctr")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--home", type=Path, help="where examples are built and kept; default: a temporary folder")
    parser.add_argument("--days", type=int, default=12)
    parser.add_argument("--last", type=int, default=8, help="the means are over so many last days")
    parser.add_argument("--one-of", type=int, default=1, help="keep one user of so many")
    parser.add_argument("--seed", type=int, default=0, help="of the training and of the downstream models")
    parser.add_argument("--skew", action="store_true", help="the version-skew sweep too")
    parser.add_argument("--restart", action="store_true", help="a model started anew too")
    parser.add_argument("--plot", type=Path, help="draw the sweep to this PNG")
    parser.add_argument("--json", action="store_true", help="a JSON line per strategy")
    parser.add_argument("--only", nargs="*", default=[s.name for s in STRATEGIES], help="names of strategies")
    return parser.parse_args()


def _moved(lake: Lake, before: Partition, after: Partition, *, column: str, dim: int) -> Movement:
    """Of the users that both days hold, by one vector column."""
    tables = [lake.read(day, columns=[USER_ID, column]) for day in (before, after)]
    ids = [table.column(USER_ID).to_numpy() for table in tables]
    rows = np.intersect1d(*ids, assume_unique=True, return_indices=True)[1:]
    a, b = (to_vectors(table.column(column), dim=dim)[chosen] for table, chosen in zip(tables, rows, strict=True))
    return movement(a, b)


def main() -> None:
    """Print what was measured."""
    options = arguments()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    recipe = replace(get_recipe(options.recipe), seed=options.seed)
    if isinstance(recipe.source, SyntheticWorld):
        recipe = replace(recipe, source=replace(recipe.source, name="drifting", seed=options.seed, **WORLD))
    downstream = replace(get_downstream(options.downstream or f"{options.recipe}_ctr"), seed=options.seed)
    days = [recipe.schedule.start + timedelta(days=index) for index in range(options.days)]
    trained: dict[tuple[Regularizer, ...], DailyTowers] = {}
    found: list[Measured] = []
    skews: list[Skew] = []
    anew: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        home = options.home or Path(folder)
        landed = Settings(home=home, data_dir=options.data, _env_file=None)
        kinds = ("user_features", "examples")
        lake = kept_days(recipe, days, settings=landed, one_of=options.one_of, scratch=home, kinds=kinds)
        users = [read_users(recipe.source, ds, lake) for ds in days]
        settings = Settings(home=Path(folder) / "downstream", lake_uri=str(lake.root), _env_file=None)
        for strategy in (s for s in STRATEGIES if s.name in options.only):
            if strategy.regularizers not in trained:
                varied = replace(recipe, regularizers=strategy.regularizers)
                trained[strategy.regularizers] = train_days(varied, days, lake=lake, users=users)
            towers = trained[strategy.regularizers]
            measured, published = run(strategy, towers, days, downstream=downstream, settings=settings)
            found.append(measured)
            if options.skew:
                skews.append(sweep(published, days, recipe=recipe, downstream=downstream, settings=settings))
            if options.restart and strategy == STRATEGIES[0]:
                other = train_days(replace(recipe, seed=recipe.seed + 1), days, lake=lake, users=users)
                anew = list(restarted(published, other, days, recipe=recipe, downstream=downstream, settings=settings))
            if options.json:
                print(json.dumps(asdict(measured) | ({"skew": asdict(skews[-1])} if skews else {})), flush=True)
        dist.destroy_process_group()
    print("\n".join(shown(found, last=options.last)))
    if skews:
        print("\n".join(["", *table(skews)]))
    if anew:
        print("\n".join(["", *anew]))
    if skews and options.plot:
        draw(skews, options.plot)


if __name__ == "__main__":
    main()
