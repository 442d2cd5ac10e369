"""What a replay found, mode by mode, with intervals: Table 2 as this world gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from serving.record import KEPT
from serving.replay.arms import Losses
from serving.replay.modes import PAPER, Mode, ReplayConfig
from serving.replay.served import Tally
from trainer.downstream.scores import bootstrap_interval, resampled

_CENTRAL_95 = (2.5, 97.5)

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One mode's arm over the scored days together."""

    ne: float
    """Eq. 9."""
    diff_percent: float
    """Against the baseline without embeddings, same examples: negative where the embeddings help."""
    interval: Interval
    """95 % of `diff_percent`, by bootstrap over users."""
    by_day: dict[date, float]
    """`diff_percent` of each day."""
    share_of_realtime: float | None
    """Its gain over real-time's, of the same pooling if that was replayed; None where real-time was not."""
    share_interval: Interval | None
    """95 %, on the same resamples."""


@dataclass(frozen=True, kw_only=True)
class ModeResult:
    """One mode over all scored days."""

    mode: Mode
    next_day: Outcome
    """Of a consumer that learnt the days before, and nothing of the day."""
    online: Outcome
    """Of a consumer that learns in event time: every batch is scored, then learnt."""
    paper_percent: float | None
    """Table 2's."""
    coverage: float
    """Share of requests that were served a vector; the others got the default."""
    fallback_rate: float
    """Share of requests that waited for their inference in vain."""
    default_after_fallback: float
    """Share of requests that did, and had nothing cached."""
    mean_pooled: float
    """Vectors averaged, of those served."""
    newest_age_hours: float
    """Mean age of the newest of the pooled vectors' features at the request."""
    mean_age_hours: float
    """Mean age of all of them."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A replay of one model's days."""

    model: str
    downstream: str
    days: tuple[date, ...]
    """The first, or the first few, are learnt from and not scored."""
    frozen_ds: date
    """The day of the frozen snapshot."""
    config: ReplayConfig
    baseline_ne: float
    """On the next day."""
    baseline_online_ne: float
    num_requests: int
    """Of the scored days, as are the following."""
    num_examples: int
    num_users: int
    modes: tuple[ModeResult, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoredDay:
    """One day; `evaluation` is None on those that are not scored."""

    ds: date
    evaluation: Losses | None
    training: Losses
    tallies: Mapping[str, Tally]


def summarise(days: list[ScoredDay], *, config: ReplayConfig, seed: int) -> tuple[ModeResult, ...]:
    """Every mode's result over the scored days. ValueError where there is none."""
    scored = [day for day in days if day.evaluation is not None]
    if not scored:
        raise ValueError("one day alone is learnt from and never scored; replay at least two")
    next_day = _Scores({day.ds: day.evaluation for day in scored if day.evaluation is not None}, seed=seed)
    online = _Scores({day.ds: day.training for day in scored}, seed=seed)
    found = []
    for arm, mode in enumerate(config.modes, start=1):
        tally = sum((day.tallies[mode.name] for day in scored), Tally())
        served, realtime = max(tally.served, 1), _realtime(mode, config)
        found.append(
            ModeResult(
                mode=mode,
                next_day=next_day.outcome(arm, realtime),
                online=online.outcome(arm, realtime),
                paper_percent=PAPER.get(mode.name),
                coverage=tally.served / tally.requests,
                fallback_rate=tally.late / tally.requests,
                default_after_fallback=tally.late_default / tally.requests,
                mean_pooled=tally.pooled / served,
                newest_age_hours=tally.newest_hours / served,
                mean_age_hours=tally.mean_hours / served,
            )
        )
    return tuple(found)


class _Scores:
    """Days of losses, together and resampled."""

    def __init__(self, by_day: dict[date, Losses], *, seed: int) -> None:
        self._by_day, self._seed = by_day, seed
        self._total = total(list(by_day.values()))
        self._sums, self._draws = self._total.sums.sum(axis=0), resampled(self._total.sums, seed=seed)

    def outcome(self, arm: int, realtime: int | None) -> Outcome:
        """Of one arm, beside that of real-time."""
        return Outcome(
            ne=ne_of(self._total, arm),
            diff_percent=_percent(self._total, arm),
            interval=bootstrap_interval(self._total.sums[:, [0, arm]], seed=self._seed),
            by_day={ds: _percent(losses, arm) for ds, losses in self._by_day.items()},
            share_of_realtime=None if realtime is None else float(_share(self._sums, arm, realtime)),
            share_interval=None if realtime is None else _central(_share(self._draws, arm, realtime)),
        )


def _realtime(mode: Mode, config: ReplayConfig) -> int | None:
    """The arm of the real-time mode that `mode` is compared with: the champion's, at the replay's own latency, the
    first that pools alike if any."""
    arms = [(arm, one) for arm, one in enumerate(config.modes, start=1) if one.waits and one.feed == "request"]
    own = [(arm, one) for arm, one in arms if one.latency is None and one.features == "request"]
    waiting = [(arm, one.pool) for arm, one in own if one.num_pooled == KEPT]
    alike = [arm for arm, pool in waiting if pool == mode.pool]
    return next(iter(alike or [arm for arm, _ in waiting]), None)


def total(losses: list[Losses]) -> Losses:
    """All of them, at least one."""
    found = losses[0]
    for one in losses[1:]:
        found = found + one
    return found


def ne_of(losses: Losses, arm: int) -> float:
    """Eq. 9 of an arm; NaN where all labels are equal."""
    rate = losses.num_positives / losses.num_examples
    if rate in (0.0, 1.0):
        return math.nan
    background = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return float(losses.sums[:, arm].sum() / losses.num_examples / background)


def _percent(losses: Losses, arm: int) -> float:
    sums = losses.sums.sum(axis=0)
    return float(100 * (sums[arm] / sums[0] - 1))


def _share(sums: npt.NDArray[np.float64], arm: int, realtime: int) -> npt.NDArray[np.float64]:
    gain = sums[..., 0] - sums[..., realtime]
    with np.errstate(divide="ignore", invalid="ignore"):
        share: npt.NDArray[np.float64] = (sums[..., 0] - sums[..., arm]) / gain
    return share


def _central(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, _CENTRAL_95)
    return float(low), float(high)


_DOCUMENTS = TypeAdapter(Replayed)


def to_json(replayed: Replayed) -> dict[str, Any]:
    """Plain values; what is endless is null."""
    document: dict[str, Any] = json.loads(_DOCUMENTS.dump_json(replayed))
    return document


def write(replayed: Replayed, folder: Path) -> Path:
    """The result as JSON, under the folder; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{replayed.model}_{replayed.days[0]}..{replayed.days[-1]}.json"
    file.write_bytes(_DOCUMENTS.dump_json(replayed, indent=1) + b"\n")
    return file
