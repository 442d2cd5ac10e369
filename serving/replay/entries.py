"""The feature store in event time: every computed vector that a later request can still be served.

As the live store does, it keeps of every user the vectors newest by (feature time, version), and pools on read. Unlike
it, it is asked about many instants at once, so it also keeps what is too young for some of them to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from serving.replay.requests import Ints
from trainer.serving import Pool

Vectors = npt.NDArray[np.float16]

NONE = -1


@dataclass(frozen=True)
class Entries:
    """[N] computed vectors in the order of (user, feature time, version), no two of them the same three."""

    user: Ints
    time_ms: Ints
    """Feature time."""
    version: Ints
    vectors: Vectors
    """[N, K, D]."""

    @classmethod
    def empty(cls, *, num_embeddings: int, dim: int) -> Entries:
        """None."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, np.empty((0, num_embeddings, dim), dtype=np.float16))

    def merged(self, user: Ints, time_ms: Ints, version: Ints | int, vectors: Vectors) -> Entries:
        """With these too. One that is there already stays as it is: a redelivery changes nothing."""
        users, times = np.concatenate([self.user, user]), np.concatenate([self.time_ms, time_ms])
        versions = np.concatenate([self.version, np.broadcast_to(np.int64(version), len(user))])
        order = np.lexsort((versions, times, users))  # stable: of equals, the one that was there is first
        key = np.stack([users, times, versions])[:, order]
        kept = np.ones(len(order), dtype=np.bool_)
        kept[1:] = (np.diff(key, axis=1) != 0).any(axis=0)
        order = order[kept]
        return Entries(users[order], times[order], versions[order], np.concatenate([self.vectors, vectors])[order])

    def newest(self, user: Ints, before_ms: Ints) -> Ints:
        """Each user's newest entry with a feature time before `before_ms`, [R]; NONE where there is none."""
        if not len(self.user) or not len(user):
            return np.full(len(user), NONE, dtype=np.int64)
        distinct, low, span, keys = self._keys
        place = np.searchsorted(distinct, user)
        wanted = place * span + np.clip(before_ms - low, 0, span - 1)
        found: Ints = np.searchsorted(keys, wanted) - 1
        # place may lie behind the last user, and `found` on the user before: neither is this user's
        return np.where((found >= 0) & (self.user[found] == user), found, NONE)

    def at(self, user: Ints, time_ms: Ints, version: int) -> Ints:
        """The entry of this version that was computed for each (user, time), [R]. They must be there."""
        found = self.newest(user, time_ms + 1)
        older = self.version[found] != version
        assert not older.any(), "an entry of this instant has another version"
        assert bool((self.time_ms[found] == time_ms).all()), "not every request was computed"
        return found

    def chain(self, first: Ints, *, count: int, pool: Pool) -> Ints:
        """`first` and the entries that are pooled with it, [R, count]; NONE where there is no further one."""
        chosen = [first]
        for _ in range(count - 1):
            chosen.append(self.before(chosen[-1], pool=pool))
        return np.stack(chosen, axis=1)[:, :count]

    def before(self, entry: Ints, *, pool: Pool) -> Ints:
        """The user's next older entry, or the newest of an older version, [R]; NONE stays NONE."""
        return self._before[pool][entry]  # NONE is the last, which is NONE

    def trimmed(self, *, at_ms: int, delay_ms: int, ttl_ms: int, count: int) -> Entries:
        """Without what no request at `at_ms` or later can be served, where computations are visible after at most
        `delay_ms`."""
        settled = self.newest(distinct := np.unique(self.user), np.full(len(distinct), at_ms - delay_ms))
        kept = self.time_ms >= at_ms - delay_ms
        for pool in self._before:
            chain = self.chain(settled, count=count, pool=pool).ravel()
            kept[chain[chain != NONE]] = True
        newest = np.repeat(np.append(np.flatnonzero(np.diff(self.user)), len(self.user) - 1), self._counts)
        kept &= self.time_ms[newest] >= at_ms - ttl_ms
        return Entries(self.user[kept], self.time_ms[kept], self.version[kept], self.vectors[kept])

    @property
    def _counts(self) -> Ints:
        return np.unique(self.user, return_counts=True)[1]

    @cached_property
    def _keys(self) -> tuple[Ints, int, int, Ints]:
        """Users, earliest time, span of a user's keys, and a key per entry that grows with (user, time)."""
        distinct, place = np.unique(self.user, return_inverse=True)
        low, span = int(self.time_ms.min()), int(np.ptp(self.time_ms)) + 2
        assert len(distinct) * span < 2**62, "too many users and milliseconds for one key"
        return distinct, low, span, place * span + (self.time_ms - low)

    @cached_property
    def _before(self) -> dict[Pool, Ints]:
        """By entry, one more for NONE."""
        place = np.arange(len(self.user))
        first_of_user = np.ones(len(place), dtype=np.bool_)
        first_of_user[1:] = np.diff(self.user) != 0
        first_of_run = first_of_user.copy()
        first_of_run[1:] |= np.diff(self.version) != 0
        run = np.maximum.accumulate(np.where(first_of_run, place, 0)) if len(place) else place

        def older(begin: Ints) -> Ints:
            return np.append(np.where(first_of_user[begin], NONE, begin - 1), NONE)

        return {"computations": older(place), "versions": older(run)}
