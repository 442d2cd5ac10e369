from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from features.lake import Lake
from infra.settings import Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import profile
from trainer.profiling import WARM_UP
from trainer.spans import PARTS, span
from trainer.trained import trained_days


@pytest.mark.slow
def test_a_profile_splits_the_step_and_publishes_nothing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=2, device="cpu", _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=4000)
    found = profile(planted_recipe(), DAY, settings=settings, steps=15)
    assert (found.steps, found.ranks, found.batch_size, found.device) == (15, 2, 64, "cpu")
    assert set(found.parts) == set(PARTS)
    assert all(value > 0 for value in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.step_ms, rel=0.25)
    assert sum(found.families.values()) == pytest.approx(found.step_ms, rel=0.5)
    for family in ("matrix products", "tables: lookup and update", "between ranks", "dense optimizer"):
        assert found.families[family] > 0, family
    with gzip.open(found.trace, "rt") as trace:
        names = {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert {"step/forward", "step/backward"} <= names
    assert trained_days(settings, "tiny") == []


def test_a_day_that_is_too_small_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ranks=1, device="cpu", _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=64 * WARM_UP)
    with pytest.raises(RuntimeError, match=f"the day has {WARM_UP} steps; a profile needs more than {WARM_UP}"):
        profile(planted_recipe(), DAY, settings=settings, steps=5)


def test_no_steps_are_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 steps; profile at least one"):
        profile(planted_recipe(), DAY, settings=Settings(home=tmp_path, _env_file=None), steps=0)


def test_a_span_names_a_part() -> None:
    with pytest.raises(AssertionError), span("dreaming"):
        pass
