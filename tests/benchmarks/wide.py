"""`fb_ctr_mini`, 603 sparse and 1000 dense user features: where a step's time goes, and examples/s against a bare loop.

The split is of days of their own, with a clock around the parts of a step (milliseconds per step, means over ranks);
`examples_per_second` is without it. The limit is the bare loop of the same sharded model over batches in memory.
"""

from __future__ import annotations

from tests.benchmarks.common.loops import compare
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.benchmarks.common.workloads import workload

GOAL = 0.9


def main() -> None:
    """A line per number of ranks, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--ranks", type=int, nargs="+", default=[2, 1], help="ranks, one core each (default 2 1)")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    results = []
    with machine() as seen:
        day = workload("fb_ctr_mini", options=options)
        for ranks in parsed.ranks:
            results.append(compare(day, ranks=ranks, runs=options.runs))
            show(results[-1])
    worst = min(result["ratio"] for result in results)
    finish("wide", options=options, results=results, machine=seen, goal=GOAL, ratio=worst)


if __name__ == "__main__":
    main()
