"""The store's keys. All of a user lies in one slot of a cluster: one command reads many models, one script writes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PREFIX = "um"
SERVED = f"{PREFIX}:served"
"""Hash: model -> what is served of it (`serving.served.Served`)."""
LOADED = f"{PREFIX}:loaded"
"""Hash: `<table>/<ds>` -> what of it was loaded from the lake (`serving.load`); lost when the store is."""
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

    def partitions_of(self, users: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Of many users, [N]."""
        if self.partitions == 1:
            return np.zeros(len(users), np.uint32)
        crc = np.full(len(users), 0xFFFFFFFF, np.uint32)
        for byte in np.ascontiguousarray(users, "<i8").view(np.uint8).reshape(-1, 8).T:
            crc = _CRC32[(crc ^ byte) & 0xFF] ^ (crc >> np.uint32(8))
        return ~crc % np.uint32(self.partitions)

    def record(self, model: str, user: int) -> str:
        """The last computed vectors: `serving.record`."""
        return f"{PREFIX}:{{{self.partition(user)}}}:e:{model}:{user}"

    def records(self, models: tuple[str, ...], user: int) -> list[str]:
        """Of several models."""
        head = f"{PREFIX}:{{{self.partition(user)}}}:e:"
        return [f"{head}{model}:{user}" for model in models]

    def records_of(self, model: str, users: Sequence[int], partition: int) -> list[str]:
        """Of many users of one partition."""
        head = f"{PREFIX}:{{{partition}}}:e:{model}:"
        return [f"{head}{user}" for user in users]

    def features_of(self, source: str, users: Sequence[int], partition: int) -> list[str]:
        """Of many users of one partition."""
        head = f"{PREFIX}:{{{partition}}}:f:{source}:"
        return [f"{head}{user}" for user in users]

    def features(self, source: str, user: int) -> str:
        """The newest known features: feature time i64 in ms, then `serving.features`' payload."""
        return f"{PREFIX}:{{{self.partition(user)}}}:f:{source}:{user}"

    def queued(self, source: str, user: int) -> str:
        """There while a request of the user waits: more of them are one."""
        return f"{PREFIX}:{{{self.partition(user)}}}:q:{source}:{user}"

    def queued_of(self, source: str, users: Sequence[int], partition: int) -> list[str]:
        """Of many users of one partition."""
        head = f"{PREFIX}:{{{partition}}}:q:{source}:"
        return [f"{head}{user}" for user in users]

    def requests(self, source: str, partition: int) -> str:
        """The stream of users to compute."""
        return f"{PREFIX}:{{{partition}}}:requests:{source}"

    def rate(self, source: str, partition: int) -> str:
        """When the next inference is free, in microseconds by the store's clock, where a rate limits them."""
        return f"{PREFIX}:{{{partition}}}:rate:{source}"

    def reply(self, user: int, nonce: str) -> str:
        """List: what a worker answers to one real-time request (`serving.scripts.ENQUEUE`)."""
        return f"{PREFIX}:{{{self.partition(user)}}}:r:{nonce}"


def _crc32_table() -> NDArray[np.uint32]:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, np.uint32(0xEDB88320), np.uint32(0)) ^ (values >> np.uint32(1))
    return values


_CRC32 = _crc32_table()
ONE_SERVER = Keys()
