"""Training over 1, 2 and 4 hosts of a kernel's making, a rank each: examples/s by the network's round trip.

Hosts are network namespaces of this machine (`infra.hosts`), so all share its cores: on two cores four ranks have the
CPU of two. What this measures is the network between them: gloo over a bridge in place of loopback, and round trips of
1 and 10 ms. `ratio` is the rate of two hosts at 0 ms over that of two ranks of one host, which meet in a file and talk
over loopback. Needs root or user namespaces.
"""

from __future__ import annotations

import statistics

from infra.hosts.job import HostsJob
from infra.hosts.rack import Rack
from infra.hosts.wire import Link
from infra.settings import Settings
from tests.benchmarks.common.ranks import Result, run
from tests.benchmarks.common.report import finish, machine, options_of, parser, show, spread
from tests.benchmarks.common.workloads import workload

GOAL = 0.9
ROUND_TRIPS_MS = (0.0, 1.0, 10.0)
HOSTS = (1, 2, 4)
_LOST_SECONDS = 600.0


def main() -> None:
    """A line per round, then the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, help="examples of the day; default: all")
    parsed = arguments.parse_args()
    options = options_of(parsed)
    rates: dict[str, list[float]] = {}
    steps_ms: dict[str, list[float]] = {}
    ratios = []
    with machine() as seen, Rack(max(HOSTS), settings=Settings(home=options.home, _env_file=None)) as rack:
        day = workload("demo", options=options, rows=parsed.rows)

        def keep(name: str, result: Result) -> float:
            rate = statistics.median(result.rates("whole"))
            rates.setdefault(name, []).append(rate)
            steps_ms.setdefault(name, []).append(1000 * result.num_examples / rate / result.num_steps)
            return rate

        for _ in range(options.runs):
            local = keep("one host, 2 ranks", run(day, ranks=2, runs=1, kinds=("whole",))[0])
            for num_hosts in HOSTS:
                names = rack.names[:num_hosts]
                job = HostsJob(rack, hosts=names, lost_seconds=_LOST_SECONDS)
                for round_trip in ROUND_TRIPS_MS if num_hosts > 1 else (0.0,):
                    for name in names:
                        rack.shape(name, Link(delay_ms=round_trip / 2))
                    found = run(day, ranks=num_hosts, runs=1, kinds=("whole",), start=job)[0]
                    rate = keep(f"{num_hosts} hosts, {round_trip:g} ms", found)
                    if (num_hosts, round_trip) == (2, 0.0):
                        ratios.append(rate / local)
            show({name: round(values[-1]) for name, values in rates.items()})
    finish(
        "hosts",
        options=options,
        examples_per_second={name: spread(values) for name, values in rates.items()},
        step_ms={name: round(statistics.median(values), 1) for name, values in steps_ms.items()},
        ratios=spread(ratios, digits=3),
        machine=seen,
        goal=GOAL,
        ratio=statistics.median(ratios),
    )


if __name__ == "__main__":
    main()
