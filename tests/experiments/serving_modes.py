"""The four serving modes of Table 2, over seeds of the downstream model: what the order of the modes owes to chance.

`python -m tests.experiments.serving_modes --home H --recipe demo --days A..B --seeds 3` replays a home of trained days,
from its registry or, where MLflow is not there any more, from its folders. `--recipe detection`: the home that
`tests.experiments.detection` makes. `--sweep` also varies how late computations can be read, how slow inference is, and
how much is pooled. Prints Markdown tables; `--json` a JSON line per seed before them.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

from features.days import parse_day, parse_days
from features.fingerprint import file_sha256
from features.lake import Lake
from infra.settings import Settings
from serving.replay.modes import MODES, PAPER, TABLE_2, Latency, Mode, ReplayConfig, modes_named
from serving.replay.replay import replay
from serving.replay.result import Replayed, to_json
from serving.replay.snapshots import Promoted, PromotedDays
from snapshots.embeddings import VERSION, table_of
from snapshots.seal import MANIFEST
from tests.experiments.detection_world import quiet_recipe, settings_at
from tests.experiments.identities import kept_days
from tests.experiments.stabilizers import T_95
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.recipes import get_recipe, the_consumer

DELAYS_MS = {"1 min": 60_000, "10 min": 600_000, "1 h": 3_600_000, "6 h": 21_600_000}
LATENCIES = ("20,80", "40,160", "100,400")


def promoted_in_folders(model: str, source: str, *, settings: Settings) -> PromotedDays:
    """Every day of the consumers' table, with the snapshot of its folder."""
    lake, table = Lake(settings.lake), table_of(model)
    found = []
    for ds in lake.days(table):
        embeddings = lake.get(table, ds)
        (number,) = lake.read(embeddings, columns=[VERSION]).column(VERSION).unique().to_pylist()
        (folder,) = (settings.artifacts / model).glob(f"ds={ds}-*")
        found.append(
            Promoted(
                ds=ds, number=number, path=folder, manifest_sha256=file_sha256(folder / MANIFEST),
                embeddings=embeddings, user_features=lake.get(f"user_features/{source}", ds),
            )
        )  # fmt: skip
    return PromotedDays(days=tuple(found))


def thinned(recipe: Recipe, *, settings: Settings, one_of: int, scratch: Path) -> Settings:
    """A home whose lake has one user of so many. ValueError where model and source do not share their name."""
    if one_of == 1:
        return settings
    if recipe.name != recipe.source.name:
        raise ValueError(
            f"{recipe.name} learns from {recipe.source.name}; only a model of its source's name is thinned"
        )
    lake, kept = Lake(settings.lake), partial(kept_days, recipe, settings=settings, one_of=one_of, scratch=scratch)
    kept(lake.days(f"examples/{recipe.name}"), kinds=("examples", "user_features"))
    small = kept(lake.days(table_of(recipe.name)), kinds=("user_embeddings",))
    return settings.model_copy(update={"lake_uri": str(small.root)})


def swept() -> Iterator[Mode]:
    """Asynchronous serving by how late a computation is read, real-time by how slow it is, both by what they pool."""
    for name, delay in DELAYS_MS.items():
        yield replace(MODES["async-versions"], name=f"async-versions, read {name} later", delay_ms=delay)
    for latency in LATENCIES:
        slow = Latency.parse(latency)
        name = f"realtime-versions, {slow.median_ms:g} ms ({slow.p99_ms:g} ms)"
        yield replace(MODES["realtime-versions"], name=name, latency=slow)
    for num in (1, 2):
        yield replace(MODES["realtime-versions"], name=f"realtime, {num} pooled", num_pooled=num)
        yield replace(MODES["async-versions"], name=f"async, {num} pooled", num_pooled=num)


def shown(found: Sequence[Replayed]) -> Iterator[str]:
    """The Markdown table: means over seeds, 95 % of the mean by Student's t; the first seed's interval over users."""
    titles = ["mode", "next day: NE diff %", "over users", "of real-time's gain", "online: NE diff %", "over users"]
    titles += ["of real-time's gain", "paper", "served", "fallbacks", "pooled", "newest, h", "mean, h"]
    yield f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"
    for place, first in enumerate(found[0].modes):
        of_mode, paper = [one.modes[place] for one in found], PAPER.get(first.mode.name)
        cells = [first.mode.name]
        for outcomes in ([mode.next_day for mode in of_mode], [mode.online for mode in of_mode]):
            low, high = outcomes[0].interval
            cells += [spread([one.diff_percent for one in outcomes], "{:+.3f}"), f"{low:+.2f} … {high:+.2f}"]
            cells += [spread([one.share_of_realtime or np.nan for one in outcomes])]
        cells += ["" if paper is None else f"{paper / PAPER['realtime']:.2f}", f"{first.coverage:.1%}"]
        cells += [f"{first.fallback_rate:.1%}" if first.mode.waits else "", f"{first.mean_pooled:.2f}"]
        cells += [f"{first.newest_age_hours:.2f}", f"{first.mean_age_hours:.2f}"]
        yield f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± half of its 95 % interval; the value alone where there is one."""
    mean = form.format(float(np.mean(values)))
    if len(values) < 2:
        return mean
    half = T_95[min(len(values) - 1, max(T_95))] * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return f"{mean} ± {form.format(half).lstrip('+')}"


def recipes(name: str) -> tuple[Recipe, DownstreamRecipe]:
    """The user model and its consumer."""
    if name != "detection":
        return get_recipe(name), the_consumer(name)
    consumer = DownstreamRecipe(
        name="detection_ctr", upstreams=("detection",), task="click", user_features=(), batch_size=512
    )
    return quiet_recipe(), consumer


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="with trained, promoted days")
    parser.add_argument("--recipe", default="demo", help="demo, globo or detection")
    parser.add_argument("--days", required=True, help="FIRST..LAST")
    parser.add_argument("--frozen-ds", help="default: the oldest")
    parser.add_argument("--modes", default=",".join(TABLE_2))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="also by delay, latency and vectors pooled")
    parser.add_argument("--latency-ms", default="8,32")
    parser.add_argument("--one-of", type=int, default=1, help="keep one user of so many")
    parser.add_argument("--scratch", type=Path, help="where the kept users go; default: within the home")
    parser.add_argument("--json", action="store_true", help="a JSON line per seed")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    settings = settings_at(options.home)
    recipe, downstream = recipes(options.recipe)
    scratch = options.scratch or options.home / f"one_of_{options.one_of}"
    settings = thinned(recipe, settings=settings, one_of=options.one_of, scratch=scratch)
    promoted = None
    if not (options.home / "mlflow.db").exists():
        promoted = promoted_in_folders(recipe.name, recipe.source.name, settings=settings)
    modes = (*modes_named(options.modes.split(",")), *(swept() if options.sweep else ()))
    config = ReplayConfig(modes=modes, latency=Latency.parse(options.latency_ms), serving=recipe.serving)
    days: tuple[date, ...] = parse_days(options.days)
    frozen = parse_day(options.frozen_ds) if options.frozen_ds else None
    found = []
    for seed in range(options.seeds):
        one = replay(
            recipe, replace(downstream, seed=seed), days, settings=settings, config=config, frozen=frozen,
            promoted=promoted, say=lambda line: print(line, flush=True),
        )  # fmt: skip
        found.append(one)
        if options.json:
            print(json.dumps(to_json(one)), flush=True)
    print(
        f"{found[0].num_requests:,} requests, {found[0].num_examples:,} examples, {found[0].num_users:,} users, "
        f"baseline NE {found[0].baseline_ne:.4f}, {found[0].seconds:.0f} s a seed"
    )
    print("\n".join(shown(found)))


if __name__ == "__main__":
    main()
