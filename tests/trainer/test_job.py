from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

from features.lake import Lake, MissingPartitionError
from infra.settings import Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import find_parent, train
from trainer.locks import LockedError, check_token, exclusive
from trainer.trained import TrainedDay, find_trained, trained_days

SECOND, THIRD = DAY + timedelta(1), DAY + timedelta(2)


def test_two_days_learn_what_was_planted(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    first, second = pair
    assert (first.parent_ds, first.parent_fingerprint) == (None, None)
    assert (second.parent_ds, second.parent_fingerprint) == (DAY, first.fingerprint)
    assert first.num_examples == second.num_examples == 4000
    assert first.metrics["click"]["examples"] == 4000
    click, before = second.metrics["click"]["ne"], first.metrics["click"]["ne"]
    assert click is not None
    assert before is not None
    assert click < before
    assert click < 0.97
    assert trained_days(home, "tiny") == [first, second]
    assert find_trained(home, "tiny", SECOND) == second
    assert find_trained(home, "tiny", THIRD) is None


def test_a_trained_day_is_not_trained_again(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    started = time.monotonic()
    assert train(planted_recipe(), SECOND, settings=home) == pair[1]
    assert time.monotonic() - started < 2
    assert "unchanged model=tiny ds=2026-01-02" in caplog.text


def test_a_day_goes_back_to_earlier_inputs_only_when_that_is_meant(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path
) -> None:
    settings = home.model_copy(update={"home": tmp_path, "lake_uri": home.lake})
    kept = shutil.copytree(pair[0].path, settings.checkpoints / "tiny" / pair[0].path.name)
    later = shutil.copytree(kept, kept.with_name(f"ds={DAY}-00000000"))
    document = later / "trained.json"
    document.write_text(document.read_text().replace('"revision": 0', '"revision": 1'))
    with pytest.raises(ValueError, match=r"as revision 0, and from others since: its model is revision 1, .*-00000000"):
        train(planted_recipe(), DAY, settings=settings)
    shutil.rmtree(later)
    assert train(planted_recipe(), DAY, settings=settings).fingerprint == pair[0].fingerprint


def test_a_day_without_examples_is_refused(home: Settings) -> None:
    with pytest.raises(MissingPartitionError, match="examples/planted has no partition ds=2026-02-01"):
        train(planted_recipe(), DAY + timedelta(31), settings=home)


def test_a_gap_is_refused_unless_it_is_meant(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    late = DAY + timedelta(4)
    with pytest.raises(ValueError, match=r"not trained on 2026-01-04.*newest good day is 2026-01-02.*--after-gap"):
        find_parent(home, "tiny", late, after_gap=False)
    assert find_parent(home, "tiny", late, after_gap=True) == pair[1]
    assert find_parent(home, "tiny", DAY, after_gap=False) is None


def test_one_trainer_per_day(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    lock = home.checkpoints / "tiny" / f"ds={THIRD}.lock"
    with (
        exclusive(lock, token="first"),  # noqa: S106
        pytest.raises(LockedError, match=f"held by pid {os.getpid()} on "),
    ):
        train(planted_recipe(), THIRD, settings=home)
    with exclusive(lock, token="second"):  # noqa: S106
        check_token(lock, token="second")  # noqa: S106
        with pytest.raises(LockedError, match="taken by another attempt"):
            check_token(lock, token="first")  # noqa: S106


@pytest.mark.slow
def test_a_gap_is_written_down(home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path) -> None:
    late, settings = DAY + timedelta(4), home.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(home.home, settings.home)
    commit_day(Lake(settings.lake), late, num_rows=640)
    later = train(planted_recipe(), late, settings=settings, after_gap=True)
    assert (later.parent_ds, later.parent_fingerprint, later.gap_days) == (SECOND, pair[1].fingerprint, 2)
    assert later.carried_over is not None
    assert later.carried_over.changes == ()
