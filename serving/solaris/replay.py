"""The pair store in event time: what every request of a day would have been served, exactly, without a store.

At the day's start the predicted pairs are there. A request is served by `serving.solaris.levels`: its own pair if that
is there and alive, else the mean of its user's newest, else of its item's newest, else zeros. What had not its own is
computed from the request's own features and is there for whoever asks after that. Means are over what is alive at the
request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from features.columns import Ids
from serving.solaris.impressions import Impressions
from serving.solaris.levels import Level
from serving.solaris.model import PairModel

Vectors = NDArray[np.float16]
DAY_US = 86_400_000_000
_SECOND_US = 1_000_000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class Stored:
    """[N] representations, each pair once; of those written together the likeliest first."""

    user: Ids
    item: Ids
    written_us: Ids
    vectors: Vectors
    """[N, E]."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def empty(cls, width: int) -> Stored:
        """None."""
        nothing = np.empty(0, np.int64)
        return cls(user=nothing, item=nothing, written_us=nothing, vectors=np.empty((0, width), np.float16))

    def with_newer(self, newer: Stored) -> Stored:
        """Both; of a pair that both have, the one written later, of those written together `newer`'s."""
        together = _joined(self, newer)
        key = _codes(together.user, together.item)
        order = np.lexsort((together.written_us, key))
        is_last = np.append(key[order][1:] != key[order][:-1], True)[: len(order)]
        return together.taken(np.sort(order[is_last]))

    def alive(self, at_us: int, model: PairModel) -> Stored:
        """Those that a request at that time can be served; what is written later is not there."""
        is_there = (self.written_us <= at_us) & (at_us < self.written_us + _ttl_us(model))
        return self.taken(np.flatnonzero(is_there))

    def capped(self, most: int) -> Stored:
        """Each user's newest `most`; of equals, the likeliest."""
        order = np.lexsort((np.arange(len(self)), -self.written_us, self.user))
        users = self.user[order]
        rank = np.arange(len(users)) - np.searchsorted(users, users)
        return self.taken(np.sort(order[rank < most]))

    def taken(self, places: Ids) -> Stored:
        """Some of them."""
        return Stored(**{name: value[places] for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the [N] requests of a day were served, in their order. A `Lookup` by places among them."""

    vectors: Vectors
    """[N, E]."""
    levels: NDArray[np.uint8]
    """[N] of `Level`."""
    age_hours: NDArray[np.float32]
    """[N], of exact pairs since they were written; NaN where there is none, or nothing was written."""
    num_refreshed: int = 0
    """Pairs that were computed because a request missed them."""

    def lookup(self, keys: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, 1, E] and one flag per level but ZERO, [N, 3]."""
        flags = self.levels[keys, None] == np.arange(Level.ZERO)
        vectors = self.vectors[keys].astype(np.float32)
        return torch.from_numpy(vectors).unsqueeze(1), torch.from_numpy(flags.astype(np.float32))

    def without(self, *levels: Level) -> Served:
        """The same with zeros in place of these levels."""
        gone = np.isin(self.levels, levels)
        return replace(
            self,
            vectors=np.where(gone[:, None], np.float16(0), self.vectors),
            levels=np.where(gone, np.uint8(Level.ZERO), self.levels),
        )

    @classmethod
    def exactly(cls, vectors: Vectors, known: NDArray[np.bool_] | None = None) -> Served:
        """Every request its own pair, or those that are `known`, the others zeros."""
        kept = np.ones(len(vectors), np.bool_) if known is None else known
        levels = np.where(kept, Level.EXACT, Level.ZERO).astype(np.uint8)
        zeroed = vectors if known is None else np.where(kept[:, None], vectors, np.float16(0))
        return cls(vectors=zeroed, levels=levels, age_hours=np.full(len(vectors), np.nan, np.float32))


def flag_shapes(width: int) -> tuple[tuple[int, int], ...]:
    """What an arm that joins `Served` takes, as `trainer.downstream.arms.Arms` wants it: a vector and three flags."""
    return ((1, width), *[(0, width)] * (Level.ZERO - 1))


def serve(
    stored: Stored,
    requests: Impressions,
    own: Vectors,
    *,
    model: PairModel,
    delay_seconds: float | None,
    exact: bool = True,
) -> tuple[Served, Stored]:
    """A day's requests, and what is stored when it is over.

    stored: when the day begins; of each user `model.most_pairs` are kept, what comes during the day beside them.
    own: [N, E], what the model makes of each request's pair from the request's features; looked at where a miss is
    computed. delay_seconds: from a miss until its pair is there, beyond the wait for the budget
    (`model.pairs_per_second`); None: misses are not computed. exact: False serves means in place of a request's own
    pair too, a control: what is stored is the same.
    """
    if _ttl_us(model) < DAY_US:
        raise ValueError(f"pairs of {model.name} live {model.ttl_seconds} s; a replay needs a day at least")
    stored = stored.capped(model.most_pairs)
    times, number = requests.time_us, len(requests)
    of_entry, of_request = _shared_codes(stored, requests)
    entry = _last_of(of_entry, of_request)
    alive = (entry >= 0) & _is_alive(stored, entry, times, model)
    refreshed = Stored.empty(own.shape[1])
    if delay_seconds is not None:
        asked, ready = _computed(of_request, times, np.flatnonzero(~alive), model=model, delay_seconds=delay_seconds)
        refreshed = Stored(user=requests.user[asked], item=requests.item[asked], written_us=ready, vectors=own[asked])
        again = _last_of(of_request[asked], of_request)
        late = ~alive & (again >= 0)
        late[late] = times[late] >= ready[again[late]]
        entry = np.where(late, len(stored) + again, entry)
        alive |= late
    alive &= exact
    everything = _joined(stored, refreshed)
    vectors, levels = np.zeros((number, own.shape[1]), np.float16), np.full(number, Level.ZERO, np.uint8)
    ages = np.full(number, np.nan, np.float32)
    levels[alive], vectors[alive] = Level.EXACT, everything.vectors[entry[alive]]
    ages[alive] = (times[alive] - everything.written_us[entry[alive]]) / _HOUR_US
    for level, owners, asking, most in (
        (Level.USER, everything.user, requests.user, model.most_pairs),
        (Level.NEIGHBOURS, everything.item, requests.item, model.most_neighbours),
    ):
        open_ = np.flatnonzero(levels == Level.ZERO)
        found, means = _means(everything, owners, asking[open_], times[open_], most=most, model=model)
        levels[open_[found]], vectors[open_[found]] = level, means
    served = Served(vectors=vectors, levels=levels, age_hours=ages, num_refreshed=len(refreshed))
    return served, stored.with_newer(refreshed)


def _computed(codes: Ids, times: Ids, missed: Ids, *, model: PairModel, delay_seconds: float) -> tuple[Ids, Ids]:
    """The requests whose misses are computed, the first of each pair, in the order of time; and when each is there."""
    in_time = missed[np.argsort(times[missed], kind="stable")]
    _, first = np.unique(codes[in_time], return_index=True)
    asked = in_time[np.sort(first)]
    turn = np.arange(len(asked)) * (_SECOND_US / model.pairs_per_second)
    begun = np.maximum.accumulate(times[asked] - turn) + turn  # one after the other, none before it was asked for
    return asked, (begun + delay_seconds * _SECOND_US).astype(np.int64)


def _means(stored: Stored, owners: Ids, asking: Ids, times: Ids, *, most: int, model: PairModel) -> tuple[Ids, Vectors]:
    """Which of the requests find anything of their owner, and the mean of its newest `most` that are alive then."""
    if not len(stored) or not len(asking):
        return np.empty(0, np.int64), np.empty((0, stored.vectors.shape[1]), np.float16)
    distinct = np.unique(owners)
    place = np.minimum(np.searchsorted(distinct, asking), len(distinct) - 1)
    order = np.lexsort((-np.arange(len(owners)), stored.written_us, owners))  # of equals, the likeliest last
    low = int(stored.written_us.min())
    span = max(int(stored.written_us.max()), int(times.max())) - low + 2
    keys = np.searchsorted(distinct, owners[order]) * span + (stored.written_us[order] - low)

    def reach(at: Ids) -> Ids:
        return np.searchsorted(keys, place * span + np.maximum(at - low, -1), side="right")

    last = reach(times)
    first = np.maximum(reach(times - _ttl_us(model)), last - most)
    found = np.flatnonzero((distinct[place] == asking) & (last > first))
    sorted_vectors, sums = stored.vectors[order], np.zeros((len(found), stored.vectors.shape[1]), np.float32)
    for turn in range(int((last - first)[found].max(initial=0))):  # a step for each of `most` at the longest
        rows = np.flatnonzero(first[found] + turn < last[found])
        sums[rows] += sorted_vectors[first[found[rows]] + turn]
    return found, (sums / (last - first)[found, None]).astype(np.float16)


def _is_alive(stored: Stored, entry: Ids, times: Ids, model: PairModel) -> NDArray[np.bool_]:
    if not len(stored):
        return np.zeros(len(entry), np.bool_)
    written = stored.written_us[entry]
    alive: NDArray[np.bool_] = (written <= times) & (times < written + _ttl_us(model))
    return alive


def _shared_codes(stored: Stored, requests: Impressions) -> tuple[Ids, Ids]:
    codes = _codes(np.concatenate([stored.user, requests.user]), np.concatenate([stored.item, requests.item]))
    return codes[: len(stored)], codes[len(stored) :]


def _codes(user: Ids, item: Ids) -> Ids:
    """A number per pair, the same for the same."""
    _, users = np.unique(user, return_inverse=True)
    items, places = np.unique(item, return_inverse=True)
    codes: Ids = users * max(len(items), 1) + places
    return codes


def _last_of(codes: Ids, wanted: Ids) -> Ids:
    """[wanted]: the place of each among `codes`, which are distinct; -1."""
    if not len(codes):
        return np.full(len(wanted), -1)
    order = np.argsort(codes)
    place = order[np.minimum(np.searchsorted(codes, wanted, sorter=order), len(codes) - 1)]
    return np.where(codes[place] == wanted, place, -1)


def _joined(one: Stored, other: Stored) -> Stored:
    return Stored(**{name: np.concatenate([value, vars(other)[name]]) for name, value in vars(one).items()})


def _ttl_us(model: PairModel) -> int:
    return int(model.ttl_seconds * _SECOND_US)
