"""A cache in front of the inferences of one user model, replayed over a trace: what every request is answered with.

A request of a user finds the newest vector that was written before it, by an inference of an earlier request. Written
less than `direct_seconds` ago, it replaces the inference. Otherwise the request begins one, unless one of the same user
is running already. In mode async the request is answered at once with what it found; in mode realtime with its own
inference, or the running one, if that ends within `window_ms`, and with what it found if not. What was written
`failover_seconds` ago is gone. A hit does not renew: both times run from the write. So the share of repeat requests
that are direct hits is at most the share of gaps shorter than the direct TTL and the latency together.

Without a limit on inferences or users, users do not touch each other and are replayed side by side.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.ercache.traces import ByUser, Ints, Trace
from trainer.serving import Serving

Flags = NDArray[np.bool_]

NOBODY = -1
"""In place of a request whose inference is served: there is none, the default is."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the cache is up against."""

    latency_ms: float = 5.0
    """Median time from a request to the write of its vector; log-normal."""
    latency_sigma: float = 0.0
    """Of its logarithm; 0: it is always the same."""
    failure_rate: float = 0.0
    """This share of inferences costs its time and writes nothing."""
    capacity: int | None = None
    """Users that the store holds; one more evicts the one that was read or written longest ago. None: all."""
    burst_seconds: float = 1.0
    """A token bucket limits inferences; it holds what comes in so long a time, and at least one."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency_ms", "latency_sigma", "burst_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"conditions: {name} is {getattr(self, name)}; it is 0 or more")
        if not 0 <= self.failure_rate <= 1:
            raise ValueError(f"conditions: failure_rate is {self.failure_rate}; it is in [0, 1]")
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"conditions: capacity is {self.capacity} users; it is at least 1")

    def draw(self, size: int) -> tuple[Ints, Flags]:
        """[size] latencies in ms and failures; the same for every policy, so that policies are compared on them."""
        rng = np.random.default_rng(self.seed)
        latencies = self.latency_ms * np.exp(self.latency_sigma * rng.normal(size=size))
        return np.rint(latencies).astype(np.int64), rng.uniform(size=size) < self.failure_rate


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What happened to each of the trace's N requests, in its order."""

    inferred: Flags
    """It began an inference."""
    hit: Flags
    """A vector young enough replaced its inference."""
    joined: Flags
    """An inference of its user was running."""
    limited: Flags
    """It should have begun one, and the rate limit was reached."""
    failed: Flags
    """Its inference wrote nothing."""
    late: Flags
    """Its inference took longer than the window; realtime alone."""
    waited: Flags
    """It was answered with an inference that it waited for, its own or the running one; realtime alone."""
    served: Ints
    """The request whose inference it was answered with; NOBODY: the default."""


def replay(trace: Trace, policy: Serving, conditions: Conditions) -> Replayed:
    """Every request in turn. ValueError for a mode in which requests cause no inference."""
    if not policy.computes:
        raise ValueError(f"serving mode {policy.mode} computes nothing on requests; simulate async or realtime")
    alone = conditions.capacity is None and policy.max_inferences_per_second == float("inf")
    return _side_by_side(trace, policy, conditions) if alone else _in_turn(trace, policy, conditions)


def _ms(seconds: float) -> int:
    return round(1000 * min(seconds, 1e12))


def _side_by_side(trace: Trace, policy: Serving, conditions: Conditions) -> Replayed:
    """All users at once: from each inference to the next one of its user, as many steps as a user has inferences."""
    grouped = trace.by_user
    latencies, fails = conditions.draw(len(trace))
    latencies, fails = latencies[grouped.order], fails[grouped.order]
    finish = grouped.times_ms + latencies
    inferred = _inferences(grouped, free=finish + np.where(fails, 0, _ms(policy.direct_seconds)))
    failed = inferred & fails
    running = last_before(inferred, grouped.starts)
    in_flight = (running != NOBODY) & (finish[running] > grouped.times_ms)
    written = last_before(inferred & ~failed, grouped.starts)
    unwritten = (written != NOBODY) & (finish[written] > grouped.times_ms)
    written = np.where(unwritten, written[written], written)  # inferences of a user do not overlap
    age = grouped.times_ms - finish[written]
    served = np.where((written != NOBODY) & (age < _ms(policy.failover_seconds)), written, NOBODY)
    joined = in_flight & ~inferred
    realtime = policy.mode == "realtime"
    own = np.where(inferred, np.arange(len(trace)), running)
    in_time = finish[own] - grouped.times_ms <= policy.window_ms
    waited = (inferred | joined) & ~failed[own] & in_time & realtime
    served = np.where(waited, own, served)
    flags = {
        "inferred": inferred,
        "hit": ~inferred & ~joined,
        "joined": joined,
        "limited": np.zeros_like(inferred),
        "failed": failed,
        "late": inferred & ~in_time & realtime,
        "waited": waited,
    }
    return Replayed(
        **{name: grouped.in_order(of_all) for name, of_all in flags.items()},
        served=grouped.in_order(np.where(served == NOBODY, NOBODY, grouped.order[served])),
    )


def _inferences(grouped: ByUser, *, free: Ints) -> Flags:
    """[N]: the requests that begin one: each user's first, and the first at or after `free` of the one before."""
    following = grouped.next_at(free)
    inferred = np.zeros(free.size, bool)
    places = np.unique(grouped.starts)
    while places.size:
        inferred[places] = True
        places = following[places]
        places = places[places < free.size]
    return inferred


def last_before(flags: Flags, starts: Ints) -> Ints:
    """[N]: the last flagged request of the same user before each; NOBODY: there is none."""
    last = np.maximum.accumulate(np.where(flags, np.arange(flags.size), NOBODY))
    before = np.concatenate([[NOBODY], last[:-1]])
    return np.where(before >= starts, before, NOBODY)


def _in_turn(trace: Trace, policy: Serving, conditions: Conditions) -> Replayed:
    """One request after the other, for what users share: the limit on inferences, and room."""
    latencies, fails = conditions.draw(len(trace))
    store, bucket = _Store(conditions.capacity), _Bucket(policy.max_inferences_per_second, conditions.burst_seconds)
    direct_ms, failover_ms = _ms(policy.direct_seconds), _ms(policy.failover_seconds)
    names = ("inferred", "hit", "joined", "limited", "failed", "late", "waited")
    flags = {name: np.zeros(len(trace), bool) for name in names}
    realtime = policy.mode == "realtime"
    served = np.full(len(trace), NOBODY)
    requests = zip(trace.times_ms.tolist(), trace.users.tolist(), latencies.tolist(), fails.tolist(), strict=True)
    for place, (now, user, latency, fails_now) in enumerate(requests):
        store.write_until(now)
        found, written = store.read(user)
        if found != NOBODY and now - written < failover_ms:
            served[place] = found
        own, finish, fails_own = store.running.get(user, (NOBODY, now, False))
        if found != NOBODY and now - written < direct_ms:
            flags["hit"][place] = True
            continue
        if own != NOBODY:
            flags["joined"][place] = True
        elif bucket.take(now):
            own, finish, fails_own = place, now + latency, fails_now
            flags["inferred"][place], flags["failed"][place] = True, fails_now
            flags["late"][place] = realtime and latency > policy.window_ms
            store.begin(user, own, finish, fails_own)
        else:
            flags["limited"][place] = True
        if realtime and own != NOBODY and not fails_own and finish - now <= policy.window_ms:
            flags["waited"][place], served[place] = True, own
    return Replayed(**flags, served=served)


class _Bucket:
    """Tokens for inferences."""

    def __init__(self, per_second: float, burst_seconds: float) -> None:
        self._per_ms, self._most = per_second / 1000, max(per_second * burst_seconds, 1.0)
        self._tokens, self._at = self._most, 0

    def take(self, now: int) -> bool:
        """One, if there is one."""
        if self._most == float("inf"):
            return True
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_ms)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Store:
    """What is written, by user, least recently used first, and the inferences that run."""

    def __init__(self, capacity: int | None) -> None:
        self.running: dict[int, tuple[int, int, bool]] = {}
        """By user: request, end, whether it fails."""
        self._capacity = capacity
        self._ends: list[tuple[int, int, int]] = []
        self._written: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def read(self, user: int) -> tuple[int, int]:
        """The request whose vector is the user's, and when it was written; NOBODY where there is none."""
        if user not in self._written:
            return NOBODY, 0
        self._written.move_to_end(user)
        return self._written[user]

    def begin(self, user: int, request: int, finish: int, fails: bool) -> None:
        """An inference that ends, and writes, at `finish`."""
        self.running[user] = request, finish, fails
        heapq.heappush(self._ends, (finish, request, user))

    def write_until(self, now: int) -> None:
        """End what has ended by now."""
        while self._ends and self._ends[0][0] <= now:
            finish, request, user = heapq.heappop(self._ends)
            _, _, fails = self.running.pop(user)
            if fails:
                continue
            self._written[user] = request, finish
            self._written.move_to_end(user)
            if self._capacity is not None and len(self._written) > self._capacity:
                self._written.popitem(last=False)
