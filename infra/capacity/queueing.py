"""Does the headroom hold? A host of the compute center, simulated: Poisson arrivals and a burst, served in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BURST = 2.0
"""The burst's rate over the rate before it."""
BURST_SECONDS = 10.0
CALM_SECONDS = 20.0
"""Before the burst, and what the waits of calm are taken from."""
MOST_ARRIVALS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Waits:
    """From a request's arrival to its vectors, seconds."""

    utilisation: float
    p50: float
    p99: float
    burst_p99: float
    """Of what arrives in a burst of twice the rate for ten seconds."""
    recovered: float
    """Seconds after the burst until a request waits no longer than the p99 before it; infinite if none does in the
    time that is simulated."""


def departures(arrivals: NDArray[np.float64], *, servers: int, service: float) -> NDArray[np.float64]:
    """[N] times at which each of N arrivals, in order, is served by `servers` of equal, constant service time.

    In order of arrival and with equal times, server i mod c serves arrivals i, i + c, …: each is Lindley's recursion
    d[j] = max(a[j], d[j-1]) + s, so d[j] = max over k <= j of (a[k] - k s) + (j + 1) s.
    """
    rows = -(-len(arrivals) // servers)
    padded = np.full(rows * servers, np.inf)
    padded[: len(arrivals)] = arrivals
    steps = np.arange(rows)[:, None] * service
    found = np.maximum.accumulate(padded.reshape(rows, servers) - steps, axis=0) + steps + service
    in_order: NDArray[np.float64] = found.reshape(-1)[: len(arrivals)]
    return in_order


def simulate(*, utilisation: float, servers: int, service: float, seed: int = 0) -> Waits:
    """Calm, a burst, and calm for twice as long. service: seconds of one server for one request."""
    rate = utilisation * servers / service
    seconds = 3 * CALM_SECONDS + BURST_SECONDS
    if rate * (seconds + BURST_SECONDS) > MOST_ARRIVALS:  # short services wait shortly: simulate fewer servers
        servers = max(1, int(servers * MOST_ARRIVALS / (rate * (seconds + BURST_SECONDS))))
        rate = utilisation * servers / service
    generator = np.random.default_rng(seed)
    ends = np.cumsum([CALM_SECONDS, BURST_SECONDS, 2 * CALM_SECONDS])
    starts = np.concatenate([[0.0], ends[:-1]])
    arrivals = np.concatenate(
        [
            np.sort(generator.uniform(start, end, generator.poisson(rate * factor * (end - start))))
            for start, end, factor in zip(starts, ends, (1.0, BURST, 1.0), strict=True)
        ]
    )
    waits = departures(arrivals, servers=servers, service=service) - arrivals
    calm, after = waits[arrivals < ends[0]], arrivals >= ends[1]
    usual = float(np.quantile(calm, 0.99))
    calm_again = arrivals[after][waits[after] <= usual]
    burst = waits[(arrivals >= ends[0]) & ~after]
    return Waits(
        utilisation=utilisation,
        p50=float(np.median(calm)),
        p99=usual,
        burst_p99=float(np.quantile(burst, 0.99)),
        recovered=float(calm_again[0] - ends[1]) if len(calm_again) else float("inf"),
    )
