"""One to two ranks on the demo recipe: examples/s per core, against two independent ranks at the same time.

`efficiency` is rate(2) / (2 rate(1)). A single rank has the machine to itself: its reader's thread runs on the core
that nobody uses, and the memory and the clock are its own. So the limit is what two cores allow at all: two ranks
without a common process group, each learning the whole day, at the same time. `ratio` is rate(2) over the sum of
theirs; what it lacks is the exchange between ranks and the waiting for each other. Each round starts all three.
"""

from __future__ import annotations

import statistics

from tests.benchmarks.common.ranks import run
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.benchmarks.common.workloads import Workload, workload

GOAL = 0.9


def round_of(day: Workload, *, runs: int) -> dict[str, float]:
    """Median examples/s of one rank, of two, and of two independent ones together."""
    one, two = (run(day, ranks=ranks, runs=runs, kinds=("whole",))[0] for ranks in (1, 2))
    alone = run(day, ranks=2, runs=runs, kinds=("whole",), alone=True)
    return {
        "one": statistics.median(one.rates("whole")),
        "two": statistics.median(two.rates("whole")),
        "independent": sum(statistics.median(result.rates("whole")) for result in alone),
        "cpu_one": statistics.median(one.cpu_rates("whole")),
        "cpu_two": statistics.median(two.cpu_rates("whole")),
        "cpu_independent": statistics.mean(statistics.median(result.cpu_rates("whole")) for result in alone),
    }


def main() -> None:
    """A line per round, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--passes", type=int, default=2, help="passes over the day in each job of a round")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    rounds = []
    with machine() as seen:
        day = workload("demo", options=options)
        for _ in range(options.runs):
            rounds.append(round_of(day, runs=1 if options.quick else parsed.passes))
            show({name: round(rate) for name, rate in rounds[-1].items()})
    finish(
        "scaling",
        options=options,
        examples_per_second={name: spread([turn[name] for turn in rounds]) for name in ("one", "two", "independent")},
        per_core={
            "one": round(statistics.median(turn["one"] for turn in rounds)),
            "two": round(statistics.median(turn["two"] for turn in rounds) / 2),
        },
        examples_per_cpu_second={
            name: spread([turn[f"cpu_{name}"] for turn in rounds]) for name in ("one", "two", "independent")
        },
        efficiency=spread([turn["two"] / (2 * turn["one"]) for turn in rounds], digits=3),
        ratios=spread([turn["two"] / turn["independent"] for turn in rounds], digits=3),
        machine=seen,
        goal=GOAL,
        ratio=statistics.median(turn["two"] / turn["independent"] for turn in rounds),
    )


if __name__ == "__main__":
    main()
