"""The quick form of the SOLARIS study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.experiments.record import write
from infra.experiments.run import run
from infra.experiments.setting import get_setting
from infra.experiments.solaris import STUDY
from infra.experiments.solaris_arms import BUDGETS, EXACT_ONLY, KNOWN, ORACLE, REPEATED, budget_arm, known_arm
from infra.experiments.solaris_day import num_distinct
from infra.settings import Settings
from serving.solaris.impressions import Impressions
from trainer.downstream.arms import BASELINE, SUM

ONE_PART = replace(STUDY, parts=(REPEATED,))
"""The other part is the same in another world."""


def test_gain_coverage_and_cost_by_arm(tmp_path: Path) -> None:
    setting, settings = get_setting("quick", num_seeds=1, num_days=4), Settings(home=tmp_path, _env_file=None)
    results = run(ONE_PART, setting, settings=settings, workers=0, say=lambda line: None)
    for part in ONE_PART.parts:
        arms = results[0][part]["arms"]
        assert arms[SUM]["to_sum"] == 0
        assert arms[BASELINE]["to_baseline"] == 0
        budgets = [arms[budget_arm(budget)] for budget in BUDGETS]
        assert [of["exact"] for of in budgets] == sorted(of["exact"] for of in budgets), (
            "coverage grows with the budget"
        )
        assert [of["forwards"] for of in budgets] == sorted(of["forwards"] for of in budgets), "and the cost"
        assert all(
            sum(of[level] for level in ("exact", "user", "neighbours", "zero")) == pytest.approx(1) for of in budgets
        )
        assert arms[EXACT_ONLY]["exact"] + arms[EXACT_ONLY]["zero"] == pytest.approx(1)
        known = [arms[known_arm(share)]["exact"] for share in KNOWN]
        assert known == sorted(known)
        assert all(0 < arms[known_arm(share)]["forwards"] <= arms[known_arm(share)]["exact"] for share in KNOWN)
        assert known[-1] < arms[ORACLE]["exact"] == 1, "nobody had seen some users and items"
        assert results[0][part]["recalls"]["predictor 2"] > results[0][part]["recalls"]["random 2"]
    finding = ONE_PART.conclude(setting, results)
    folder = write(finding, settings)
    assert "| oracle |" in finding.markdown()
    assert (folder / "plot.png").exists()
    assert ONE_PART.conclude(setting, run(ONE_PART, setting, settings=settings, workers=0)) == finding, (
        "nothing is measured twice"
    )


def test_a_pair_that_is_asked_for_again_is_computed_once() -> None:
    users, items = np.array([1, 1, 1, 2, 2]), np.array([5, 5, 6, 5, 5])
    asked = Impressions(user=users, item=items, time_us=np.arange(5))
    assert num_distinct(asked, np.ones(5, np.bool_)) == 3
    assert num_distinct(asked, np.array([True, True, False, False, False])) == 1
    assert num_distinct(asked, np.zeros(5, np.bool_)) == 0
