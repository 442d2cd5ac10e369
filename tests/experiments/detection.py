"""Planted faults are told apart and caught, and quiet days raise no alarm: how often, and from which magnitude on.

`python -m tests.experiments.detection --home DIR --days 60` runs a small synthetic world through the real steps (build,
train, publish, infer, shift, gate, promote): two weeks until there is something usual, then so many quiet days, of
which none should be held. Then every fault is planted, at several magnitudes, on a branch of several of those days,
each of which should not be promoted and whose cause should be named. What is done is kept in `--home` (json lines):
run again, it goes on. Prints Markdown tables; `--json` prints one object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from snapshots.publish import publish
from tests.experiments.detection_faults import Fault, faults, plant_in_log
from tests.experiments.detection_tables import QUIET, markdown, summary
from tests.experiments.detection_world import (
    Judged,
    branch,
    days,
    in_this_process,
    judge,
    learn,
    publish_edited,
    quiet_day,
    quiet_recipe,
    read_judged,
    settings_at,
)
from tests.faults.__main__ import remove
from trainer.recipe import Recipe

WARM_UP = 14
"""Days of a young model, whose verdicts are not counted: nothing is usual yet."""
EVERY = 4
"""Faults are planted on every fourth day, from the last on."""
KEPT = "judged.jsonl"


def quiet_days(recipe: Recipe, wanted: Sequence[date], *, home: Path) -> list[Judged]:
    """Each day as it comes."""
    home.mkdir(parents=True, exist_ok=True)
    settings = settings_at(home)
    done = {judged.ds: judged for judged in read_judged(home / KEPT) if judged.fault == QUIET}
    found = []
    for ds in wanted:
        began = time.monotonic()
        if (judged := done.get(ds.isoformat())) is None:
            judged = quiet_day(recipe, ds, settings=settings)
            judged.write(home / KEPT)
            tell(judged, began)
        found.append(judged)
    return found


def planted_days(recipe: Recipe, wanted: Sequence[date], chosen: Sequence[Fault], *, home: Path) -> list[Judged]:
    """Every fault on every one of the days, on a branch of the quiet history."""
    done = {(judged.ds, judged.fault): judged for judged in read_judged(home / KEPT)}
    found = []
    for ds in wanted:
        missing = [fault for fault in chosen if (ds.isoformat(), fault.label) not in done]
        found += [done[ds.isoformat(), fault.label] for fault in chosen if fault not in missing]
        if not missing:
            continue
        # a folder of its own: MLflow keeps a store open by its address
        settings = branch(home, home.with_name(f"{home.name}-{ds}"))
        for fault in missing:  # those in the weights first: they need the day's own features
            began = time.monotonic()
            if fault.tower is not None:
                publish_edited(recipe, ds, fault.tower, fault.magnitude, settings=settings, salt=fault.label)
            else:
                plant_in_log(recipe, ds, fault, settings=settings, before=ds - timedelta(days=1))
                learn(recipe, ds, settings=settings)
                publish(recipe, ds, settings=settings)
            judged = judge(recipe, ds, settings=settings, fault=fault.label, magnitude=fault.magnitude)
            judged.write(home / KEPT)
            tell(judged, began)
            found.append(judged)
        remove(settings.home)
    return found


def tell(judged: Judged, began: float) -> None:
    """A line of progress."""
    seconds = time.monotonic() - began
    causes = ", ".join(judged.causes)
    line = f"{judged.ds} {judged.fault:<36} {judged.verdict:<8} {causes} [{seconds:.1f} s]"
    print(line if judged.fault != QUIET else f"{line} {'; '.join(judged.reasons)}", file=sys.stderr, flush=True)


def absolute(path: str) -> Path:
    """Of a path that was given relative to the working directory."""
    return Path(path).absolute()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=absolute, help="where days are kept; default: a temporary folder")
    parser.add_argument(
        "--days", type=int, default=60, help=f"quiet days that are counted, after {WARM_UP} that are not"
    )
    parser.add_argument("--planted-days", type=int, default=5, help="days on which every fault is planted")
    parser.add_argument("--only", nargs="*", help="faults whose labels begin so")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")
    recipe, all_days = quiet_recipe(), days(WARM_UP + options.days)
    chosen = [f for f in faults() if not options.only or f.label.startswith(tuple(options.only))]
    counted = all_days[WARM_UP:]
    planted_on = counted[::-EVERY][: options.planted_days]  # a model that has matured
    with tempfile.TemporaryDirectory() as scratch, in_this_process():
        home = Path(scratch) / "home" if options.home is None else options.home
        quiet = quiet_days(recipe, all_days, home=home)[WARM_UP:]
        planted = planted_days(recipe, planted_on, chosen, home=home)
    print(json.dumps(summary(quiet, planted, chosen)) if options.json else markdown(quiet, planted, chosen))


if __name__ == "__main__":
    main()
