"""Inject faults for real and say what was lost: one line per fault, and a total."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.scenario import Outcome, Scenario, Trial, play, promise_of

if TYPE_CHECKING:
    from tests.faults.world import World

# The scenarios are imported in `main`: a process that is started to be killed imports this module again.
_WIDTH = 24


def parsed(arguments: list[str], known: Collection[str]) -> argparse.Namespace:
    """ArgumentParser's own exit (status 2) for what cannot be run."""
    parser = argparse.ArgumentParser(
        prog="infra/faults", description=f"{__doc__} Exit status 1 when a promise was broken."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to inject (default: all)")
    parser.add_argument("--list", action="store_true", help="print every fault and its promise, and end")
    parser.add_argument("--quick", action="store_true", help="a few injections of each, as infra/test does")
    parser.add_argument("--rounds", type=int, default=1, help="so many rounds, each with a seed of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first round: it decides what, where and when")
    parser.add_argument("--json", action="store_true", help="a JSON object per fault, and one of the total")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"there is no fault {', '.join(unknown)}; infra/faults --list shows them")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; play at least one")
    return options


def main(arguments: list[str]) -> int:
    """1 when a promise was broken."""
    from tests.faults.catalogue import SCENARIOS
    from tests.faults.world import World

    options = parsed(arguments, SCENARIOS)
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<{_WIDTH}} {promise_of(scenario)}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    chosen = {name: SCENARIOS[name] for name in options.names or SCENARIOS}
    with logging_to(folder / "log"), closing(World(folder / "world")) as world:
        outcomes = play_all(chosen, options, folder, world)
    total = Outcome(
        injected=sum(outcome.injected for outcome in outcomes),
        broken=tuple(line for outcome in outcomes for line in outcome.broken),
        seconds=round(sum(outcome.seconds for outcome in outcomes), 1),
        lost=f"{len(outcomes)} scenarios",
    )
    show("total", total, options)
    if total.broken:
        print(f"{len(total.broken)} promises were broken; what is left of it: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """All lines of the block, in a file in place of the console."""
    root, handler = logging.getLogger(), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    kept, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        handler.close()


def play_all(
    scenarios: Mapping[str, Scenario], options: argparse.Namespace, folder: Path, world: World
) -> list[Outcome]:
    """A line as each begins (to stderr) and as it ends."""
    began, outcomes = time.monotonic(), []
    if not options.json:
        print(f"{'fault':<{_WIDTH}} injected survived seconds  lost", flush=True)
    for seed in range(options.seed, options.seed + options.rounds):
        for name, scenario in scenarios.items():
            label = f"{name} #{seed}" if options.rounds > 1 else name
            print(f"[{time.monotonic() - began:5.0f} s] {label} …", file=sys.stderr, flush=True)
            at = folder / f"{name}-{seed}"
            at.mkdir()
            outcome = play(scenario, Trial(world=world, folder=at, seed=seed, quick=options.quick))
            show(label, outcome, options)
            outcomes.append(outcome)
            if not outcome.broken:
                remove(at)
    return outcomes


def show(label: str, outcome: Outcome, options: argparse.Namespace) -> None:
    """One line, and one for each broken promise."""
    if options.json:
        print(json.dumps({"fault": label, **asdict(outcome), "survived": outcome.survived}), flush=True)
        return
    counts = f"{outcome.injected:>8} {outcome.survived:>8} {outcome.seconds:>7.1f}"
    print(f"{label:<{_WIDTH}} {counts}  {outcome.lost}", flush=True)
    if label != "total":
        for line in outcome.broken:
            print(f"    BROKEN {line}", flush=True)


def remove(folder: Path) -> None:
    """Sealed folders are read-only."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
