"""The settings of a client."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of a client."""

    partitions: int = 1
    """As every client of the store has them."""
    longest_stream: int = 100_000
    """Requests of a partition that may wait for the compute center; more are shed."""
    buffer: int = 10_000
    """Requests that wait to be sent; more are dropped. What is in it is lost when the process is killed."""
    send_seconds: float = 0.002
    """So long requests are gathered before they are sent together."""
    refresh_seconds: float = 2.0
    """So often a client asks what is served and what time it is."""
    failures: int = 5
    """Reads in a row that fail before the breaker opens."""
    pause_seconds: float = 0.25
    """Between two tries while it is open."""

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) > 0:
                raise ValueError(f"a client's {one.name} is {getattr(self, one.name)}; it is positive")


BACKGROUND_SECONDS = 2.0
"""That the background waits for an answer."""
RETRY_SECONDS = 0.1
"""Before the background tries again."""
