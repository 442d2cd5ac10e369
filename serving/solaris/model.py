"""What reader, queue and workers know alike of a foundation model: its shape, how long a pair lives, what it may cost.

Whoever shares a store is given the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_MEMBERS = 4_096
"""Of a record: the store takes it apart at every write."""


@dataclass(frozen=True, kw_only=True)
class PairModel:
    """name: of the foundation model, in the store's keys. source: whose user features it reads. width: E."""

    name: str
    source: str
    width: int
    ttl_seconds: float = 86_400.0
    """A representation that was written so long ago is served no more."""
    refresh_share: float = 0.25
    """With less than this share of its time left, a pair that is asked for or predicted is computed again."""
    most_pairs: int = 64
    """Of a user."""
    most_neighbours: int = 8
    """Users that are kept of an item, for those who have nothing of their own."""
    future_seconds: float = 60.0
    """Features further in the store's future are refused."""
    pairs_per_second: float = float("inf")
    """The budget: what all workers together compute."""
    longest_queue: int = 100_000
    """Pairs that wait; beyond, the one of the lowest priority is shed."""
    most_items: int = 1_000
    """Of a read."""
    deadline_ms: float = 10.0
    """That a read waits for the store."""

    def __post_init__(self) -> None:
        for name in ("width", "ttl_seconds", "most_pairs", "most_neighbours", "pairs_per_second", "longest_queue",
                     "most_items", "deadline_ms"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"pairs of {self.name}: {name} is {getattr(self, name)}; it is positive")
        if not self.future_seconds >= 0:
            raise ValueError(f"pairs of {self.name}: future_seconds is {self.future_seconds}; it is 0 or more")
        if not 0 <= self.refresh_share < 1:
            raise ValueError(f"pairs of {self.name}: refresh_share is {self.refresh_share}; it is from 0 to below 1")
        for name in ("most_pairs", "most_neighbours"):
            if getattr(self, name) > MOST_MEMBERS:
                raise ValueError(f"pairs of {self.name}: {name} is {getattr(self, name)}; a record has {MOST_MEMBERS}")
        if self.width > 65_535:
            raise ValueError(f"pairs of {self.name}: width is {self.width}; a record has 65535 at most")

    @property
    def fresh_seconds(self) -> float:
        """An entry that is older is computed again when its pair is asked for or predicted."""
        return self.ttl_seconds * (1 - self.refresh_share)
