"""What each request of a day is served, per mode: decided from what is visible before it, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from serving.record import LOOKBACK_SECONDS
from serving.replay.entries import NONE, Entries
from serving.replay.modes import REQUESTED, Mode, ReplayConfig
from serving.replay.requests import Ints, Requests

_HOUR_MS = 3_600_000
LOOKBACK_MS = int(1_000 * LOOKBACK_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Served:
    """The vectors of R requests, as places in a store."""

    entries: Entries
    chosen: Ints
    """[R, P]: what is pooled, NONE where there is less."""
    late: npt.NDArray[np.bool_]
    """[R]: the request waited for its inference in vain (a fallback)."""

    def pooled(self, requests: Ints) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Each request's pooled vectors [B, K, D], the bits that `serving.record.Record.pooled` gives, zeros for the
        default; and whether it has any."""
        chosen = self.chosen[requests]
        present = chosen != NONE
        parts = [self._vectors(chosen[:, place], present[:, place]) for place in range(chosen.shape[1])]
        total = parts[0] + sum(parts[2:], start=parts[1]) if len(parts) > 1 else parts[0]
        counts = present.sum(axis=1)
        mean = total / np.maximum(counts, 1).astype(np.float32)[:, None, None]
        return mean.astype(np.float16).astype(np.float32), counts > 0

    def lookup(self, keys: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """`pooled` of these requests, as arms join it: [N, K, D] and [N, 1]."""
        vectors, has_any = self.pooled(keys)
        return torch.from_numpy(vectors), torch.from_numpy(has_any.astype(np.float32)).unsqueeze(1)

    def _vectors(self, chosen: Ints, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        found = np.zeros((len(chosen), *self.entries.vectors.shape[1:]), dtype=np.float32)
        found[present] = self.entries.vectors[chosen[present]]
        return found

    def tally(self, requests: Requests) -> Tally:
        """Counts over the day."""
        present = self.chosen != NONE
        counts = present.sum(axis=1)
        served = counts > 0
        if served.any():
            ages = requests.time_ms[:, None] - self.entries.time_ms[self.chosen]
            newest = np.where(present, ages, np.iinfo(np.int64).max).min(axis=1)[served]
            mean = np.where(present, ages, 0).sum(axis=1)[served] / counts[served]
        else:
            newest = mean = np.empty(0)
        return Tally(
            requests=len(requests),
            served=int(served.sum()),
            late=int(self.late.sum()),
            late_default=int((self.late & ~served).sum()),
            pooled=int(counts.sum()),
            newest_hours=float(newest.sum()) / _HOUR_MS,
            mean_hours=float(mean.sum()) / _HOUR_MS,
        )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over requests."""

    requests: int = 0
    served: int = 0
    """With at least one vector; the others get the default."""
    late: int = 0
    """Fallbacks to what was cached."""
    late_default: int = 0
    """Of them, those without anything cached."""
    pooled: int = 0
    """Vectors that were averaged."""
    newest_hours: float = 0.0
    """Sum over the served: age of the newest of the pooled vectors' features."""
    mean_hours: float = 0.0
    """Sum over the served: mean age of the pooled vectors' features."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def serve(mode: Mode, entries: Entries, requests: Requests, *, config: ReplayConfig, version: int) -> Served:
    """What the requests see of `entries`, which may hold computations of their own instants and later ones.

    version: of the snapshot that computed the requests' own.
    """
    count = mode.num_pooled
    newest = entries.newest(requests.user, requests.time_ms - _hidden_ms(mode, config))
    newest = _with_record(newest, entries, requests, ttl_ms=config.ttl_ms, mode=mode)
    cached = entries.chain(newest, count=count, pool=mode.pool)
    late = np.zeros(len(requests), dtype=np.bool_)
    if not mode.waits:
        return Served(entries=entries, chosen=_together(cached, entries), late=late)
    latency = mode.latency or config.latency
    late = latency.draw(requests.user, requests.time_ms, seed=config.seed) > config.serving.window_ms
    computed_ms = requests.time_ms if mode.features == "request" else requests.first_ms
    own = entries.at(requests.user, computed_ms, version)
    others = newest
    if mode.pool == "versions":  # its own stands for its version
        same = (newest != NONE) & (entries.version[newest] == version)
        others = np.where(same, entries.before(newest, pool="versions"), newest)
    in_time = np.column_stack([own, entries.chain(others, count=count - 1, pool=mode.pool)])
    chosen = _together(np.where(late[:, None], cached, in_time), entries)
    return Served(entries=entries, chosen=chosen, late=late)


def _together(chosen: Ints, entries: Entries) -> Ints:
    """Without what is so much older than the newest that the store does not keep it."""
    if not len(entries.user):
        return chosen
    times = entries.time_ms[chosen]
    return np.where(times >= times[:, :1] - LOOKBACK_MS, chosen, NONE)


def _hidden_ms(mode: Mode, config: ReplayConfig) -> int:
    """A computation of so long ago, or younger, is not visible yet. What was loaded before the day is."""
    return config.delay_of(mode) if mode.feed in REQUESTED else 0


def _with_record(newest: Ints, entries: Entries, requests: Requests, *, ttl_ms: int, mode: Mode) -> Ints:
    """NONE where the record has expired."""
    if mode.feed == "once" or not len(entries.user):
        return newest
    young = entries.time_ms[newest] >= requests.time_ms - ttl_ms
    return np.where(young, newest, NONE)
