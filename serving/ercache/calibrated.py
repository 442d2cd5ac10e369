"""Traces drawn at random whose repeat requests lie in time as ERCache's access pattern says.

Users come in sessions. User u has a Poisson process of sessions of rate proportional to (u + 1) ** -zipf, thinned by
the hour of the day. A session has a geometric number of requests, and log-normal gaps between them, of median exp(mu)
seconds and width sigma. The two published points determine mu and sigma, given the length of sessions: the share
F(x) = p W(x) + (1 - p) B(x) of gaps within x seconds is W within sessions (p of all gaps) and B between them. W(60) and
W(600) give mu and sigma in closed form; B is what the drawn sessions have (those of busy users overlap), so the
equations are solved anew with what the drawn trace missed, with the same random numbers, until it hits both points.

The tail beyond 600 s is not published. It follows from the length and the rate of sessions, which are assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from serving.ercache.traces import PUBLISHED, Trace, of_requests

DAY_MS = 86_400_000
_TOLERANCE = 2e-4
_ROUNDS = 30
"""Of the share of the gaps; or two gaps, where those are more."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What is drawn. `points`: two of (seconds, share of the repeat requests within them)."""

    num_users: int = 20_000
    days: float = 3.0
    sessions_per_day: float = 3.0
    """Of a user, on average."""
    requests_per_session: float = 5.0
    zipf: float = 0.6
    diurnal: float = 0.6
    """Sessions begin (1 + diurnal) times as often as on average at the busiest hour: a sine over the day."""
    points: tuple[tuple[float, float], tuple[float, float]] = PUBLISHED
    seed: int = 0

    def __post_init__(self) -> None:
        (low, low_share), (high, high_share) = self.points
        if not (0 < low < high and 0 < low_share < high_share < 1):
            raise ValueError(f"points are {self.points}; give two of (seconds, share), both rising, shares in (0, 1)")
        for name in ("num_users", "days", "sessions_per_day"):
            if not getattr(self, name) > 0:
                raise ValueError(f"a calibrated trace of {name} {getattr(self, name)}; it is positive")
        if not self.requests_per_session * (1 - high_share) > 1:
            raise ValueError(
                f"requests_per_session is {self.requests_per_session}: too few gaps lie within sessions for "
                f"{high_share:.0%} of all within {high:g} s; "
                f"it is more than {1 / (1 - high_share):.2f}"
            )
        if not 0 <= self.diurnal <= 1:
            raise ValueError(f"diurnal is {self.diurnal}; it is in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A calibrated trace and the two numbers found for it."""

    trace: Trace
    mu: float
    """Of the log of the seconds between the requests of a session."""
    sigma: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well a trace hits one point."""

    seconds: float
    wanted: float
    found: float
    standard_error: float
    """Of `found`, by jackknife over blocks of users: a user's gaps hang together."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """The random numbers, in the order of (session, place within it)."""

    users: NDArray[np.int64]
    """[N]."""
    begins_ms: NDArray[np.float64]
    """[N]: of the request's session."""
    first: NDArray[np.bool_]
    """[N]: whether the request is its session's first."""
    normal: NDArray[np.float64]
    """[N]: the log of the gap before it, in standard units."""


def calibrated(config: Calibrated) -> Solved:
    """Draw, and solve for mu and sigma. ValueError where no pair of them hits the points."""
    drawn = _draw(config)
    targets = np.array([share for _, share in config.points])
    aims, inside, missed = targets.copy(), 1 - 1 / config.requests_per_session, targets
    for _ in range(_ROUNDS):
        shares = aims / inside
        if not 0 < shares[0] < shares[1] < 1:
            break
        mu, sigma = _within_sessions(config, shares)
        trace = _trace(config, drawn, mu=mu, sigma=sigma)
        missed = targets - trace.share_within([seconds for seconds, _ in config.points])
        if np.abs(missed).max() <= max(_TOLERANCE, 2 / trace.gaps_ms.size):
            return Solved(trace=trace, mu=mu, sigma=sigma)
        aims += missed
    raise ValueError(
        f"no gaps within sessions give {config.points}, off by {np.abs(missed).max():.4f} at last: sessions are too "
        "short, or too close to each other; raise requests_per_session or lower sessions_per_day"
    )


def goodness(
    trace: Trace, points: tuple[tuple[float, float], tuple[float, float]] = PUBLISHED, *, blocks: int = 50
) -> tuple[Fit, ...]:
    """How far the trace is from each point, and how sure that is. Fewer users than blocks: a block each."""
    grouped = trace.by_user
    repeats = np.flatnonzero(grouped.starts[1:] == grouped.starts[:-1])
    gaps = np.diff(grouped.times_ms)[repeats]
    block = np.unique(grouped.starts[repeats], return_inverse=True)[1] % blocks
    sizes = np.bincount(block, minlength=blocks)
    fits = []
    for seconds, wanted in points:
        within = np.bincount(block, weights=gaps <= 1000 * seconds, minlength=blocks)
        without = (within.sum() - within) / np.maximum(sizes.sum() - sizes, 1)
        used = without[sizes > 0]
        variance = (used.size - 1) / max(used.size, 1) * float(((used - used.mean()) ** 2).sum()) if used.size else 0.0
        found = float(trace.share_within(seconds))
        fits.append(Fit(seconds=seconds, wanted=wanted, found=found, standard_error=math.sqrt(variance)))
    return tuple(fits)


def _within_sessions(config: Calibrated, shares: NDArray[np.float64]) -> tuple[float, float]:
    """mu and sigma of the log-normal with these shares within the two points' seconds."""
    low, high = (NormalDist().inv_cdf(float(share)) for share in shares)
    seconds_low, seconds_high = (math.log(seconds) for seconds, _ in config.points)
    sigma = (seconds_high - seconds_low) / (high - low)
    return seconds_low - sigma * low, sigma


def _draw(config: Calibrated) -> _Drawn:
    rng = np.random.default_rng(config.seed)
    rates = np.arange(1, config.num_users + 1) ** -config.zipf
    rates *= config.sessions_per_day * config.num_users / rates.sum()
    # thinning: drawn at the busiest hour's rate, kept by the hour's share of it
    counts = rng.poisson(rates * config.days * (1 + config.diurnal))
    users = np.repeat(np.arange(config.num_users), counts)
    begins = rng.uniform(0, config.days * DAY_MS, users.size)
    rate = 1 + config.diurnal * np.sin(2 * np.pi * begins / DAY_MS)
    kept = rng.uniform(0, 1 + config.diurnal, users.size) < rate
    users, begins = users[kept], begins[kept]
    sizes = rng.geometric(1 / config.requests_per_session, users.size)
    firsts = np.zeros(int(sizes.sum()), dtype=bool)
    firsts[np.cumsum(sizes) - sizes] = True
    return _Drawn(
        users=np.repeat(users, sizes),
        begins_ms=np.repeat(begins, sizes),
        first=firsts,
        normal=rng.normal(size=firsts.size),
    )


def _trace(config: Calibrated, drawn: _Drawn, *, mu: float, sigma: float) -> Trace:
    gaps = np.where(drawn.first, 0.0, 1000 * np.exp(mu + sigma * drawn.normal))
    elapsed = np.cumsum(gaps)
    session = np.cumsum(drawn.first) - 1
    times = drawn.begins_ms + elapsed - elapsed[drawn.first][session]
    in_time = times < config.days * DAY_MS
    return of_requests("calibrated", drawn.users[in_time], times[in_time].astype(np.int64))
