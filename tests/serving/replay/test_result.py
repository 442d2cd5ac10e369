"""How losses become Table 2."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from serving.replay.arms import Losses
from serving.replay.modes import ReplayConfig, modes_named
from serving.replay.result import ScoredDay, ne_of, summarise
from serving.replay.served import Tally

FIRST = date(2026, 1, 1)
FACTORS = {"frozen": 0.99, "batch": 0.95, "realtime": 0.90, "async": 0.92}


def day_of_losses(day: int, *, users: int = 50) -> Losses:
    """Ten examples of each user, three of ten positive, scored with their mean; the modes lose a share of that."""
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    noise = 1 + 0.1 * np.random.default_rng(day).normal(size=users)
    base = 10 * entropy * noise / noise.mean()
    ids = np.arange(day, day + users)
    return Losses.of(
        ids, np.stack([base, *(factor * base for factor in FACTORS.values())], axis=1),
        num_examples=10 * users, num_positives=3 * users,
    )  # fmt: skip


def test_shares_and_intervals_are_of_the_losses() -> None:
    days = [
        ScoredDay(
            ds=FIRST + timedelta(days=day),
            evaluation=day_of_losses(day) if day else None,
            training=day_of_losses(day),
            tallies={mode: Tally(requests=10, served=8, late=1, pooled=16, newest_hours=4.0) for mode in FACTORS},
        )
        for day in range(3)
    ]
    config = ReplayConfig(modes=modes_named(list(FACTORS)))
    found = {mode.mode.name: mode for mode in summarise(days, config=config, seed=0)}
    for name, factor in FACTORS.items():
        for outcome in (found[name].next_day, found[name].online):
            assert outcome.ne == pytest.approx(factor)
            assert outcome.diff_percent == pytest.approx(100 * (factor - 1))
            assert outcome.interval == pytest.approx((100 * (factor - 1),) * 2)
            assert outcome.share_of_realtime == pytest.approx((1 - factor) / 0.1)
            assert list(outcome.by_day) == [FIRST + timedelta(days=1), FIRST + timedelta(days=2)], "not the first"
        assert (found[name].coverage, found[name].fallback_rate, found[name].mean_pooled) == (0.8, 0.1, 2.0)
        assert found[name].newest_age_hours == 0.5
    assert found["async"].paper_percent == -0.126


def test_losses_of_days_add_up_by_user() -> None:
    both = day_of_losses(0) + day_of_losses(1)
    assert both.user_ids.tolist() == list(range(51))
    assert both.sums.sum(axis=0) == pytest.approx(2 * day_of_losses(0).sums.sum(axis=0))
    assert ne_of(both, 0) == pytest.approx(1.0), "the background predicts itself"


def test_a_single_day_is_never_scored() -> None:
    day = ScoredDay(ds=FIRST, evaluation=None, training=day_of_losses(0), tallies={})
    with pytest.raises(ValueError, match="at least two"):
        summarise([day], config=ReplayConfig(), seed=0)


def test_the_gain_is_compared_with_the_champions_real_time_of_the_same_pooling() -> None:
    names = ["frozen-realtime", "realtime", "realtime-versions", "async-versions", "batch"]
    losses = Losses.of(
        np.arange(3), np.tile([1.0, 0.98, 0.90, 0.80, 0.85, 0.95], (3, 1)), num_examples=3, num_positives=1
    )
    day = ScoredDay(
        ds=FIRST, evaluation=losses, training=losses, tallies={name: Tally(requests=1, served=1) for name in names}
    )
    found = summarise([day], config=ReplayConfig(modes=modes_named(names)), seed=0)
    shares = [mode.next_day.share_of_realtime for mode in found]
    assert shares == pytest.approx([0.2, 1.0, 1.0, 0.75, 0.5])
