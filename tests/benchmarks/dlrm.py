"""The classic DLRM as a config of ours: examples/s at 1 and 2 ranks, against a bare loop over batches in memory.

26 single-id features x 100,000 rows x 64, 13 counts, bottom 512-256-64, over 512-512-256-1, Adagrad everywhere,
batch 1024 per rank, on an advertising log (`criteo_like/`, 40,000 rows, 3 % positive) tiled to 262,144 rows and
committed to a lake once. The figure to compare with other trainers is `examples_per_second`: Delta on disk, real ids
hashed on the fly, real labels, every batch scored before it is learnt from. The limit in `ratio` is the bare loop of
the same ranks; the worst number of ranks counts. `first_ne` is of the first pass, the log's repetitions included.
"""

from __future__ import annotations

from tests.benchmarks.common.loops import compare
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.benchmarks.common.workloads import workload

GOAL = 0.95


def main() -> None:
    """A line per number of ranks, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="ranks, one core each (default 1 2)")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    results = []
    with machine() as seen:
        day = workload("dlrm", options=options, drawn=options.quick)
        for ranks in parsed.ranks:
            results.append(compare(day, ranks=ranks, runs=options.runs))
            show(results[-1])
    worst = min(result["ratio"] for result in results)
    finish("dlrm", options=options, results=results, machine=seen, goal=GOAL, ratio=worst)


if __name__ == "__main__":
    main()
