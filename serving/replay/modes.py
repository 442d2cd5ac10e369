"""The serving modes of Table 2, as data: whose computations a request sees, and whether it waits for its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from features.sources.draws import normal
from serving.record import KEPT
from trainer.serving import Pool, Serving

Feed = Literal["frozen", "once", "daily", "request", "both", "frozen-request"]
"""What is written to the store. frozen: every day's active users, by one snapshot. once: one day's users, by that day's
snapshot, and never again. daily: every day's active users, by the day's snapshot. request: the user of every request,
by the champion, from the features that were logged with the request. both: daily and request. frozen-request: as
request, by one snapshot."""
DAILY: frozenset[Feed] = frozenset({"frozen", "daily", "both"})
"""Those that write when a day ends."""
REQUESTED: frozenset[Feed] = frozenset({"request", "both", "frozen-request"})
"""Those that write on every request."""

PAPER = {"frozen": -0.034, "batch": -0.094, "realtime": -0.141, "async": -0.126}
"""Table 2: NE difference to the baseline without embeddings, in percent."""

_Z_99 = 2.3263478740408408  # of the standard normal, 99 %


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long an inference takes, log-normal: half are done in `median_ms`, 99 % in `p99_ms`."""

    median_ms: float = 8.0
    p99_ms: float = 32.0

    def __post_init__(self) -> None:
        if not 0 < self.median_ms < self.p99_ms:
            raise ValueError(
                f"inference latency: median {self.median_ms} ms, p99 {self.p99_ms} ms; "
                "both are positive, and p99 is the larger"
            )

    def draw(
        self, users: npt.NDArray[np.int64], times_ms: npt.NDArray[np.int64], *, seed: int
    ) -> npt.NDArray[np.float64]:
        """Milliseconds of each request's inference, [R]: by (seed, user, time) alone, whatever else is drawn."""
        sigma = np.log(self.p99_ms / self.median_ms) / _Z_99
        drawn: npt.NDArray[np.float64] = self.median_ms * np.exp(sigma * normal(seed, users, times_ms))
        return drawn

    @classmethod
    def parse(cls, text: str) -> Latency:
        """`MEDIAN` (p99 is four times that) or `MEDIAN,P99`, in milliseconds."""
        parts = text.split(",")
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) not in (1, 2):
            raise ValueError(f"latency {text!r}: write MEDIAN or MEDIAN,P99 in milliseconds, for example 8,32")
        return cls(median_ms=values[0], p99_ms=values[-1] if len(values) == 2 else 4 * values[0])


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way of serving."""

    name: str
    feed: Feed
    waits: bool = False
    """Whether a request waits for its own inference; if it comes in time, it is pooled with the two newest cached."""
    pool: Pool = "computations"
    delay_ms: int | None = None
    """So long after its request a computation is visible in the store. None: the replay's `delay_ms`."""
    latency: Latency | None = None
    """Of the inference that it waits for. None: the replay's."""
    num_pooled: int = KEPT
    """Vectors pooled at most (section 5.2)."""
    features: Literal["request", "first"] = "request"
    """Of what the inference is that a request waits for: its own features, or those of the user's first request of the
    day. Between the two lies what changes within a day."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_pooled <= KEPT:
            raise ValueError(f"mode {self.name}: {self.num_pooled} are pooled; the store keeps {KEPT}: 1 to {KEPT}")
        if self.features == "first" and (not self.waits or self.pool != "versions"):
            raise ValueError(
                f"mode {self.name} serves the features of the day's first request; it must wait for its inference and "
                "pool versions, or fresher computations are served with it"
            )


LIVE = Serving().pool
"""How the live store pools unless a recipe says otherwise."""

_MODES = (
    # section 6.4: "we keep using the initial snapshot to evaluate the new data": the model is frozen, not the features
    Mode(name="frozen", feed="frozen"),
    Mode(name="frozen-once", feed="once"),
    Mode(name="batch", feed="daily"),
    Mode(name="realtime", feed="request", waits=True, pool=LIVE),
    Mode(name="async", feed="request", pool=LIVE),
    Mode(name="async-daily", feed="both", pool=LIVE),
    # the same vectors all day long: what changes from day to day is there, what changes within a day is not
    Mode(name="realtime-first", feed="request", waits=True, pool="versions", features="first"),
    # what fresh features are worth where the model stands still, and the consumer sees one version only
    Mode(name="frozen-realtime", feed="frozen-request", waits=True),
    Mode(name="frozen-async", feed="frozen-request"),
)
MODES = {mode.name: mode for mode in _MODES} | {
    f"{mode.name}-{pool}": replace(mode, name=f"{mode.name}-{pool}", pool=pool)
    for mode in _MODES
    for pool in get_args(Pool)
    if mode.feed in ("request", "both") and mode.features == "request"  # one snapshot has one version
}
"""By name: with the live store's pooling, and with either by its name."""
TABLE_2 = tuple(PAPER)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is replayed, besides the model and the days."""

    modes: tuple[Mode, ...] = tuple(MODES[name] for name in TABLE_2)
    latency: Latency = field(default_factory=Latency)
    serving: Serving = field(default_factory=Serving)
    """`window_ms`: a real-time request waits no longer for its inference; then it is a fallback. `failover_seconds`: a
    user without a computation for so long has no record."""
    delay_ms: int = 1_000
    """So long after its request a computation is visible in the store: queue, batch, inference and write."""
    seed: int = 0
    """Of the latencies."""

    def __post_init__(self) -> None:
        names = [mode.name for mode in self.modes]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"modes {names}: name at least one, and none twice")
        for mode in self.modes:
            if self.delay_of(mode) < 0:
                raise ValueError(f"mode {mode.name}: delay_ms is {self.delay_of(mode)}; it is not negative")

    def delay_of(self, mode: Mode) -> int:
        """The mode's own, or the replay's."""
        return self.delay_ms if mode.delay_ms is None else mode.delay_ms

    @property
    def ttl_ms(self) -> int:
        """Of a record."""
        return int(1_000 * self.serving.failover_seconds)

    @property
    def longest_delay_ms(self) -> int:
        """Of all modes: older computations are visible in every one."""
        return max(self.delay_of(mode) for mode in self.modes)


def modes_named(names: Sequence[str]) -> tuple[Mode, ...]:
    """The modes; ValueError lists the known ones."""
    if unknown := [name for name in names if name not in MODES]:
        raise ValueError(f"there are no modes {unknown}; known: {', '.join(MODES)}")
    return tuple(MODES[name] for name in names)
