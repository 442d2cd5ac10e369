"""How a recipe's embeddings are served online: the mode of Table 2, and how long a computed vector counts (ERCache)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

Mode = Literal["frozen", "batch", "realtime", "async"]
"""Section 6.4. frozen: as async, but by the snapshot of one day, for ever. batch: the promoted day, loaded once a day;
nothing is computed on request. realtime: a request waits for its own inference, for `window_ms` at most. async: a
request gets what earlier ones had computed, and its own inference comes after (SOAP, section 4)."""

Pool = Literal["computations", "versions"]
"""What a record's three entries are, whose mean is served. computations: the last three computed vectors (section 5.2).
versions: the last computed vector of each of the last three versions, as batch inference pools."""

After = Literal["promotion", "learning"]
"""From when on a promoted version serves (section 5.2). promotion: at once; pooling, option 2, keeps consumers steady.
learning, option 1: once every downstream model that consumes it has trained on it, which takes a day."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The policy of one user model."""

    mode: Mode = "async"
    after: After = "promotion"
    pool: Pool = "computations"
    frozen_day: date | None = None
    """frozen: the promoted day that serves, for ever. None: the first that was promoted."""
    window_ms: float = 30.0
    """realtime: an inference that takes longer is a fallback, and counted."""
    deadline_ms: float = 20.0
    """A read that the store does not answer for so long gets the default."""
    direct_seconds: float = 0.0
    """ERCache's direct cache: what the champion wrote less long ago, of features less long ago, replaces the inference.
    0: nothing does. A request that computes for another model of the source computes for this one too."""
    failover_seconds: float = 14 * 86_400.0
    """ERCache's failover cache: how long an embedding is kept, and served when there is no newer one."""
    max_inferences_per_second: float = float("inf")
    """Over all clients of a store; what is above is not computed, and counted."""
    future_seconds: float = 60.0
    """Features from further in the future, by the store's clock, are refused: they would be the newest for too long."""

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("after", get_args(After)), ("pool", get_args(Pool))):
            if getattr(self, name) not in known:
                raise ValueError(f"serving: {name} is {getattr(self, name)!r}; it is one of {list(known)}")
        for name in ("window_ms", "deadline_ms", "failover_seconds", "max_inferences_per_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"serving: {name} is {getattr(self, name)}; it is positive")
        for name in ("direct_seconds", "future_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"serving: {name} is {getattr(self, name)}; it is 0 or more")
        if self.direct_seconds > self.failover_seconds:
            raise ValueError(
                f"serving: direct_seconds {self.direct_seconds:g} is more than failover_seconds "
                f"{self.failover_seconds:g}; the failover cache outlives the direct one"
            )

    @property
    def computes(self) -> bool:
        """Whether requests cause inferences."""
        return self.mode != "batch"
