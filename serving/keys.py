"""The store's keys. All of a user lies in one slot of a cluster: one command reads many models, one script writes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

PREFIX = "um"
SERVED = f"{PREFIX}:served"
"""Hash: model -> what is served of it (`serving.served.Served`)."""
LAYOUT = f"{PREFIX}:layout"
"""The number of partitions: the same for every client of a store."""
GROUP = "compute"


@dataclass(frozen=True)
class Keys:
    """partitions: hash tags that users are spread over; 1 for one server, several per node for a cluster."""

    partitions: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 16_384:
            raise ValueError(f"{self.partitions} partitions; a store has 1 to 16384, the slots of a cluster")

    def partition(self, user: int) -> int:
        """Of a user. OverflowError unless the id is an int64."""
        return zlib.crc32(user.to_bytes(8, "little", signed=True)) % self.partitions if self.partitions > 1 else 0

    def record(self, model: str, user: int) -> str:
        """The last computed vectors: `serving.record`."""
        return f"{PREFIX}:{{{self.partition(user)}}}:e:{model}:{user}"

    def records(self, models: tuple[str, ...], user: int) -> list[str]:
        """Of several models."""
        head = f"{PREFIX}:{{{self.partition(user)}}}:e:"
        return [f"{head}{model}:{user}" for model in models]

    def features(self, source: str, user: int) -> str:
        """The newest known features: feature time i64 in ms, then `serving.features`' payload."""
        return f"{PREFIX}:{{{self.partition(user)}}}:f:{source}:{user}"

    def queued(self, source: str, user: int) -> str:
        """There while a request of the user waits: more of them are one."""
        return f"{PREFIX}:{{{self.partition(user)}}}:q:{source}:{user}"

    def requests(self, source: str, partition: int) -> str:
        """The stream of users to compute."""
        return f"{PREFIX}:{{{partition}}}:requests:{source}"

    def rate(self, source: str, partition: int) -> str:
        """When the next inference is free, in microseconds by the store's clock, where a rate limits them."""
        return f"{PREFIX}:{{{partition}}}:rate:{source}"

    def reply(self, user: int, nonce: str) -> str:
        """List: what a worker answers to one real-time request (`serving.scripts.ENQUEUE`)."""
        return f"{PREFIX}:{{{self.partition(user)}}}:r:{nonce}"


ONE_SERVER = Keys()
