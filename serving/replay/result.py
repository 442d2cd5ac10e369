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

from serving.replay.arms import Losses
from serving.replay.modes import PAPER, Mode, ReplayConfig
from serving.replay.served import Tally
from trainer.downstream.scores import bootstrap_interval, resampled

_CENTRAL_95 = (2.5, 97.5)

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ModeResult:
    """One mode over all days."""

    mode: Mode
    ne: float
    """Next day's NE (Eq. 9) over the scored days together."""
    ne_diff_percent: float
    """Against the baseline without embeddings, same examples: negative where the embeddings help."""
    interval: Interval
    """95 %, by bootstrap over users."""
    train_ne_diff_percent: float
    """The same of the training pass: every batch scored before it was learnt."""
    by_day: dict[date, float]
    """`ne_diff_percent` of each scored day."""
    share_of_realtime: float | None
    """Its gain over real-time's, of the same pooling if that was replayed; None where real-time was not."""
    share_interval: Interval | None
    paper_percent: float | None
    """Table 2's."""
    coverage: float
    """Share of the scored days' requests that were served a vector; the others got the default."""
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
    """The first is learnt from and not scored."""
    frozen_ds: date
    """The day of the frozen snapshot."""
    config: ReplayConfig
    baseline_ne: float
    num_requests: int
    """Of the scored days, as are the following."""
    num_examples: int
    num_users: int
    modes: tuple[ModeResult, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScoredDay:
    """One day; `evaluation` is None on the first."""

    ds: date
    evaluation: Losses | None
    training: Losses
    tallies: Mapping[str, Tally]


def summarise(
    days: list[ScoredDay], *, config: ReplayConfig, seed: int
) -> tuple[float, tuple[ModeResult, ...], Losses]:
    """The baseline's NE, every mode's result, and the losses that they are made of. ValueError for a single day."""
    scored = [(day.ds, day.evaluation, day.tallies) for day in days if day.evaluation is not None]
    if not scored:
        raise ValueError("one day alone is learnt from and never scored; replay at least two")
    total = _total([losses for _, losses, _ in scored])
    training = _total([day.training for day in days])
    draws = resampled(total.sums, seed=seed)
    sums = total.sums.sum(axis=0)
    entropy = _entropy(total)

    def result(mode: Mode, arm: int) -> ModeResult:
        realtime = _realtime(mode, config)
        tally = sum((tallies[mode.name] for _, _, tallies in scored), Tally())
        share = None if realtime is None else _share(sums, arm, realtime)
        shares = None if realtime is None else _share(draws, arm, realtime)
        served = max(tally.served, 1)
        return ModeResult(
            mode=mode,
            ne=float(sums[arm] / entropy),
            ne_diff_percent=_percent(total, arm),
            interval=bootstrap_interval(total.sums[:, [0, arm]], seed=seed),
            train_ne_diff_percent=_percent(training, arm),
            by_day={ds: _percent(losses, arm) for ds, losses, _ in scored},
            share_of_realtime=None if share is None else float(share),
            share_interval=None if shares is None else _central(shares),
            paper_percent=PAPER.get(mode.name),
            coverage=tally.served / tally.requests,
            fallback_rate=tally.late / tally.requests,
            default_after_fallback=tally.late_default / tally.requests,
            mean_pooled=tally.pooled / served,
            newest_age_hours=tally.newest_hours / served,
            mean_age_hours=tally.mean_hours / served,
        )

    modes = tuple(result(mode, arm) for arm, mode in enumerate(config.modes, start=1))
    return float(sums[0] / entropy), modes, total


def _realtime(mode: Mode, config: ReplayConfig) -> int | None:
    """The arm of the real-time mode that `mode` is compared with: the first that pools as it does, else the first."""
    waiting = [(arm, one.pool) for arm, one in enumerate(config.modes, start=1) if one.waits]
    alike = [arm for arm, pool in waiting if pool == mode.pool]
    return next(iter(alike or [arm for arm, _ in waiting]), None)


def _total(losses: list[Losses]) -> Losses:
    found = losses[0]
    for one in losses[1:]:
        found = found + one
    return found


def _entropy(losses: Losses) -> float:
    """Of the background, summed over the examples: the denominator of Eq. 9. NaN where all labels are equal."""
    rate = losses.num_positives / losses.num_examples
    if rate in (0.0, 1.0):
        return math.nan
    return -losses.num_examples * (rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


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
