"""The store's keys of pairs. All that is written together of a user, or waits, lies in one slot of a cluster."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from serving.keys import ONE_SERVER, PREFIX, Keys

ANNOUNCED = f"{PREFIX}:pairs"
"""Hash: model -> its `serving.solaris.model.PairModel`, as JSON."""
_PAIR = struct.Struct("<qq")


@dataclass(frozen=True, kw_only=True)
class PairKeys:
    """Of one foundation model. keys: the store's."""

    model: str
    keys: Keys = ONE_SERVER

    def user(self, user: int) -> str:
        """A user's pairs: `serving.solaris.record`."""
        return f"{PREFIX}:{{{self.keys.partition(user)}}}:p:{self.model}:{user}"

    def item(self, item: int) -> str:
        """An item's newest users."""
        return f"{PREFIX}:{{{self.keys.partition(item)}}}:n:{self.model}:{item}"

    def queue(self, partition: int) -> str:
        """Sorted set: pairs that wait, by priority."""
        return self._of(partition, "queue")

    def leases(self, partition: int) -> str:
        """Sorted set: pairs that were given to a worker, by when they are given to another."""
        return self._of(partition, "leases")

    def held(self, partition: int) -> str:
        """Hash: pair -> how often it was given out, and its priority."""
        return self._of(partition, "held")

    def rate(self, partition: int) -> str:
        """When the next computation is free, in microseconds by the store's clock."""
        return self._of(partition, "rate")

    def aside(self, partition: int) -> str:
        """List: pairs that no worker gets done."""
        return self._of(partition, "aside")

    def log(self, partition: int) -> str:
        """Stream: what was served (`serving.solaris.log`)."""
        return self._of(partition, "log")

    def _of(self, partition: int, what: str) -> str:
        return f"{PREFIX}:{{{partition}}}:p:{what}:{self.model}"


def packed(user: int, item: int) -> bytes:
    """A pair as a member. OverflowError, struct.error unless both are int64."""
    return _PAIR.pack(user, item)


def unpacked(member: bytes) -> tuple[int, int]:
    """User and item. ValueError for what is no pair."""
    if len(member) != _PAIR.size:
        raise ValueError(f"{member[:20]!r} is no pair; it has {_PAIR.size} bytes")
    user, item = _PAIR.unpack(member)
    return user, item
