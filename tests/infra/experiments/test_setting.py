"""Fewer days make an experiment that scores something, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.experiments.setting import FEWEST_DAYS, SETTINGS, get_setting


@pytest.mark.parametrize("name", SETTINGS)
def test_the_fewest_days_are_scored_on_two(name: str) -> None:
    whole = SETTINGS[name]()
    for days in range(FEWEST_DAYS, whole.num_days + 1):
        setting = get_setting(name, num_days=days)
        assert setting.num_followed - setting.num_settling >= 2
        assert setting.followed[0] >= 1
    assert get_setting(name, num_days=whole.num_days) == whole


@pytest.mark.parametrize("days", [2, 7], ids=["too few to score", "more than there are"])
def test_days_that_a_setting_has_not_are_refused(days: int) -> None:
    with pytest.raises(ValueError, match=f"{days} days of setting quick; it has 6: take 3 to 6"):
        get_setting("quick", num_days=days)


def test_a_setting_scores_two_days() -> None:
    with pytest.raises(ValueError, match="at least 2 more"):
        replace(get_setting("quick"), num_settling=2)
