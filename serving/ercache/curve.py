"""Compute saved against staleness and NE, over direct TTLs; and the TTL that a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.ercache.replay import Conditions, replay
from serving.ercache.simulate import Statistics, ages_seconds, statistics
from serving.ercache.traces import Trace
from trainer.serving import Serving

DAY_SECONDS = 86_400.0
PUBLISHED_SAVED = (0.42, 0.64)
"""Compute that ERCache saved at Meta; from summaries of the paper, whose TTLs are not public."""

NeByAdded = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""[N] seconds by which answers are older than without a direct cache (infinite: the default in place of an embedding)
to [N] NE. `relation.NeByStaleness` is one."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One direct TTL."""

    ttl_seconds: float
    statistics: Statistics
    ne: float | None
    """Mean over requests of what the relation says of their added staleness; None without a relation."""
    added_p95_seconds: float
    """95th percentile over requests: so much older their answers are than without a direct cache."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A model on a trace."""

    model: str
    trace: str
    points: tuple[Point, ...]
    """By ascending TTL; the first is 0, without a direct cache."""
    ne_without: float | None
    """NE of the default, without an embedding; None without a relation."""

    @property
    def losses(self) -> NDArray[np.float64] | None:
        """[points] share of the gain of serving without a direct cache that each TTL loses; None without a relation,
        or where there is no gain to lose."""
        known = [point.ne for point in self.points if point.ne is not None]
        if self.ne_without is None or not known or not self.ne_without > known[0]:
            return None
        return (np.array(known) - known[0]) / (self.ne_without - known[0])


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a direct cache may cost."""

    gain_share: float = 0.05
    """Of what the embeddings gain in NE without a direct cache, this share; where NE is known."""
    added_p95_seconds: float = 600.0
    """So much older than without a direct cache 95 % of the answers may at most be; where NE is not known."""

    def __post_init__(self) -> None:
        if not 0 <= self.gain_share <= 1 or not self.added_p95_seconds >= 0:
            raise ValueError(
                f"gain_share {self.gain_share} is a share, added_p95_seconds {self.added_p95_seconds} at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A model's direct TTL, and why."""

    model: str
    ttl_seconds: float
    saved: float
    why: str


def grid(first: float = 1.0, last: float = DAY_SECONDS, *, per_decade: int = 5) -> tuple[float, ...]:
    """0, and a logarithmic grid of seconds, both ends included; and the published points 60 and 600."""
    if not 0 < first < last:
        raise ValueError(f"TTLs from {first} to {last} s; the first is positive and less than the last")
    steps = int(np.ceil(np.log10(last / first) * per_decade)) + 1
    spaced = np.geomspace(first, last, steps).round(1)
    return (0.0, *np.unique(np.concatenate([spaced, [t for t in (60.0, 600.0) if first <= t <= last]])).tolist())


def sweep(
    trace: Trace,
    policy: Serving,
    *,
    model: str,
    ttls: Sequence[float] | None = None,
    conditions: Conditions | None = None,
    ne: NeByAdded | None = None,
) -> Curve:
    """The policy with every direct TTL, under the same latencies and failures. 0 is always among them."""
    points: list[Point] = []
    uncached = np.empty(0)
    for ttl in sorted({0.0, *(grid() if ttls is None else ttls)}):
        cached = replace(policy, direct_seconds=ttl, failover_seconds=max(policy.failover_seconds, ttl))
        found = replay(trace, cached, conditions or Conditions())
        ages = ages_seconds(trace, found)
        uncached = uncached if points else ages
        added = _added(ages, uncached)
        points.append(
            Point(
                ttl_seconds=ttl,
                statistics=statistics(trace, found),
                ne=None if ne is None else float(ne(added).mean()),
                added_p95_seconds=float(np.percentile(added, 95, method="higher")),
            )
        )
    without = None if ne is None else float(ne(np.array([np.inf]))[0])
    return Curve(model=model, trace=trace.name, points=tuple(points), ne_without=without)


def _added(ages: NDArray[np.float64], uncached: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N]: so much older; 0 where there is no embedding without a cache either."""
    known = np.isfinite(uncached)
    return np.where(known, np.maximum(ages - np.where(known, uncached, 0), 0), 0)


def recommend(curve: Curve, budget: Budget | None = None) -> Recommendation:
    """The longest TTL up to which every one is within the budget. A larger budget never gives a shorter TTL."""
    allowed = budget or Budget()
    losses = curve.losses
    if losses is None:
        costs, most = [point.added_p95_seconds for point in curve.points], allowed.added_p95_seconds
    else:
        costs, most = losses.tolist(), allowed.gain_share
    over = next((index for index, cost in enumerate(costs) if cost > most), len(costs))
    place = max(over - 1, 0)
    point, following = curve.points[place], curve.points[over] if over < len(costs) else None
    return Recommendation(
        model=curve.model,
        ttl_seconds=point.ttl_seconds,
        saved=point.statistics.saved,
        why=_why(curve, point, following, costs, place, most),
    )


def _why(curve: Curve, point: Point, following: Point | None, costs: Sequence[float], place: int, most: float) -> str:
    """One sentence."""
    if (staleness := point.statistics.staleness) is None:
        return "every answer is the default: nothing is written within the trace"
    saves = (
        f"{point.statistics.saved:.0%} of the inferences are saved, answers are {short(staleness.mean)} old on average"
    )
    if curve.losses is None:
        cost = f"95 % of them at most {short(costs[place])} older than without a direct cache, {short(most)} is allowed"
        more = "" if following is None else f"; {short(following.ttl_seconds)} would make it {short(costs[place + 1])}"
    else:
        cost = f"and {costs[place]:.1%} of the embeddings' gain in NE is lost, {most:.1%} is allowed"
        more = "" if following is None else f"; {short(following.ttl_seconds)} would lose {costs[place + 1]:.1%}"
    return f"{saves}, {cost}{more or '; longer ones were not asked for'}"


def short(seconds: float) -> str:
    """In the unit that a person would use."""
    for unit, size in (("d", DAY_SECONDS), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
