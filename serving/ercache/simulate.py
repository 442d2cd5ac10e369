"""A policy on a trace in numbers: compute saved, what answers were made of, how old they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.ercache.replay import NOBODY, Conditions, Replayed, replay
from serving.ercache.traces import Trace
from trainer.serving import Serving


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """Seconds from the request whose features an answer was computed from to the request that it answered."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One model's requests. Every request is one of hit, joined, limited or inferred, and its answer one of fresh,
    direct (the hits), failovers and fallbacks."""

    requests: int
    hits: int
    """A vector younger than the direct TTL replaced the inference."""
    joined: int
    """Another inference of the user was running; a second one was not begun."""
    limited: int
    """The limit on inferences was reached."""
    inferences: int
    failures: int
    """Inferences that wrote nothing."""
    late: int
    """Inferences that took longer than the window (realtime)."""
    fresh: int
    """Answered with an inference that it waited for, its own or the running one (realtime)."""
    failovers: int
    """Answered with a vector older than the direct TTL."""
    fallbacks: int
    """Answered with the default: there was no vector."""
    cold: int
    """First requests of their users; nothing can be there for them before."""
    saved: float
    """Of the inferences that there would be if every request had one."""
    staleness: Staleness | None
    """Of the answers that are not the default; None where all are."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Several models asked by the same requests."""

    models: dict[str, Statistics]
    writes: int
    """Of vectors, one by one: an inference that does not fail is one."""
    grouped_writes: int
    """When the vectors of one request are written together."""

    @property
    def writes_saved(self) -> float:
        """By grouping."""
        return 1 - self.grouped_writes / self.writes if self.writes else 0.0


def simulate(trace: Trace, policy: Serving, conditions: Conditions | None = None) -> Statistics:
    """One model."""
    return statistics(trace, replay(trace, policy, conditions or Conditions()))


def simulate_models(trace: Trace, policies: Mapping[str, Serving], conditions: Conditions | None = None) -> Group:
    """Models of one source, each with its own policy, asked by every request."""
    replays = {model: replay(trace, policy, conditions or Conditions()) for model, policy in policies.items()}
    wrote = [found.inferred & ~found.failed for found in replays.values()]
    return Group(
        models={model: statistics(trace, found) for model, found in replays.items()},
        writes=sum(int(of_model.sum()) for of_model in wrote),
        grouped_writes=int(np.logical_or.reduce(wrote).sum()) if wrote else 0,
    )


def ages_seconds(trace: Trace, found: Replayed) -> NDArray[np.float64]:
    """[N]: of each request's answer; infinite where it is the default."""
    ages = (trace.times_ms - trace.times_ms[found.served]) / 1000
    return np.where(found.served == NOBODY, np.inf, ages)


def statistics(trace: Trace, found: Replayed) -> Statistics:
    """Counted."""
    ages = ages_seconds(trace, found)
    inferences, answered = int(found.inferred.sum()), np.isfinite(ages)
    return Statistics(
        requests=len(trace),
        hits=int(found.hit.sum()),
        joined=int(found.joined.sum()),
        limited=int(found.limited.sum()),
        inferences=inferences,
        failures=int(found.failed.sum()),
        late=int(found.late.sum()),
        fresh=int(found.waited.sum()),
        failovers=int((answered & ~found.hit & ~found.waited).sum()),
        fallbacks=int((~answered).sum()),
        cold=trace.num_users,
        saved=1 - inferences / len(trace),
        staleness=_staleness(ages[answered]),
    )


def _staleness(ages: NDArray[np.float64]) -> Staleness | None:
    if not ages.size:
        return None
    p50, p95, p99 = np.percentile(ages, [50, 95, 99])
    return Staleness(mean=float(ages.mean()), p50=float(p50), p95=float(p95), p99=float(p99))
