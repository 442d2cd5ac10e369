"""Training (`trainer.loop.learn`), from Delta on disk to the loss, against a bare loop over batches in memory.

The limit is the bare loop: zero_grad, forward, backward and optimizer step of the same sharded model, on the same
batches, made before. The whole pipeline also reads, shuffles, hashes and lays out the batches, scores every one
before it is learnt from, and agrees with the other ranks on each step; checkpoints are off. Both run in the same
ranks, in turns. `ratio` is of examples/s by the clock, `cpu_ratio` by CPU time of all threads; the
worst setting counts.
"""

from __future__ import annotations

from tests.benchmarks.common.loops import compare
from tests.benchmarks.common.report import finish, machine, options_of, parser, show
from tests.benchmarks.common.workloads import has_data, workload

GOAL = 0.95


def main() -> None:
    """A line per recipe and number of ranks, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--ranks", type=int, nargs="+", default=[2, 1], help="ranks, one core each (default 2 1)")
    arguments.add_argument("--recipes", nargs="+", choices=["demo", "globo"], help="default: those with data")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    names = parsed.recipes or [name for name in ("demo", "globo") if has_data(name, options=options)]
    results = []
    with machine() as seen:
        for name in names:
            day = workload(name, options=options)
            for ranks in parsed.ranks:
                results.append(compare(day, ranks=ranks, runs=options.runs))
                show(results[-1])
    worst = min(result["ratio"] for result in results)
    finish("train_loop", options=options, results=results, machine=seen, goal=GOAL, ratio=worst)


if __name__ == "__main__":
    main()
