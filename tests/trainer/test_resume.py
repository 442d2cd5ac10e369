"""A day that is killed goes on where it was, to the bit."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest
import torch

from features.lake import Lake
from infra.settings import Settings
from tests.trainer.planted import DAY, commit_day, planted_recipe
from tests.trainer.test_checkpoint import tensors
from trainer import job, waypoints
from trainer.job import train
from trainer.launch import run_ranks
from trainer.recipe import Recipe
from trainer.trained import TrainedDay, read_trained, trained_days


def steps_saved(settings: Settings) -> list[int]:
    """Of the day's sealed waypoints."""
    (folder,) = (settings.checkpoints / "tiny").glob(".within-*")
    destination = folder.with_name(folder.name.removeprefix(".within-"))
    return sorted(waypoints.read_waypoint(path).step for path in waypoints.sealed(destination))


class Killer:
    """`train` with ranks that save every `every` steps and die at a moment."""

    def __init__(
        self,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        *,
        every: int,
        recipe: Recipe | None = None,
        ds: date = DAY,
    ) -> None:
        self._settings, self._monkeypatch, self._every = settings, monkeypatch, every
        self._recipe, self._ds = recipe or planted_recipe(), ds

    def train(self, moment: str, step: int = 0) -> TrainedDay:
        def run(entry: str, arguments: list[str], *, ranks: int, directory: Path) -> None:
            told = [*arguments, str(self._every), moment, str(step)]
            run_ranks("tests.trainer.killing:main", told, ranks=ranks, directory=directory)

        with self._monkeypatch.context() as patched:
            patched.setattr(job, "run_ranks", run)
            return train(self._recipe, self._ds, settings=self._settings)

    def kill(self, moment: str, step: int) -> None:
        with pytest.raises(RuntimeError, match="a rank was killed: Signal 9"):
            self.train(moment, step)


def assert_same(found: TrainedDay, expected: TrainedDay, scratch: Path) -> None:
    assert found.fingerprint == expected.fingerprint
    assert found.metrics == expected.metrics
    ours, theirs = tensors(found.path, scratch / "ours.pt"), tensors(expected.path, scratch / "theirs.pt")
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.slow
def test_a_day_killed_four_times_ends_as_if_undisturbed(
    pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, ranks=2, _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=4000)
    killer = Killer(settings, monkeypatch, every=6)
    killer.kill("learning", 3)
    assert steps_saved(settings) == []
    killer.kill("writing", 6)
    assert steps_saved(settings) == []
    killer.kill("sealing", 12)
    assert steps_saved(settings) == [6]
    killer.kill("learning", 20)
    assert steps_saved(settings) == [12, 18]
    trained = train(planted_recipe(), DAY, settings=settings)
    assert trained.resumed == 2
    assert read_trained(trained.path) == trained
    assert trained.metrics["click"]["examples"] == 4000
    assert_same(trained, pair[0], tmp_path)
    assert list((settings.checkpoints / "tiny").glob(".*")) == []


@pytest.mark.slow
def test_a_damaged_waypoint_is_skipped_and_other_ranks_begin_anew(
    pair: tuple[TrainedDay, TrainedDay],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings = Settings(home=tmp_path, ranks=2, _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=4000)
    Killer(settings, monkeypatch, every=6).kill("learning", 14)
    assert steps_saved(settings) == [6, 12]
    (folder,) = (settings.checkpoints / "tiny").glob(".within-*")
    shutil.copytree(folder, tmp_path / "copy")
    newest = folder / "step=000000012"
    shard = max(newest.rglob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    trained = train(planted_recipe(), DAY, settings=settings)
    assert f"skipped the damaged waypoint {newest}" in caplog.text
    assert "resumed at step=6 of 32" in caplog.text
    assert trained.resumed == 1
    assert_same(trained, pair[0], tmp_path)

    shutil.rmtree(trained.path)
    shutil.copytree(tmp_path / "copy", folder)
    alone = train(planted_recipe(), DAY, settings=settings.model_copy(update={"ranks": 1}))
    assert "saved at 2 ranks: this job has 1" in caplog.text
    assert (alone.resumed, alone.ranks, alone.metrics["click"]["examples"]) == (0, 1, 4000)


@pytest.mark.slow
def test_a_failed_save_ends_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, ranks=2, _env_file=None)
    commit_day(Lake(settings.lake), DAY, num_rows=20_000)
    with pytest.raises(RuntimeError, match=r"SaveFailedError: .* failed.*OSError: .*No space left"):
        Killer(settings, monkeypatch, every=6).train("full", 6)
    assert trained_days(settings, "tiny") == []


@pytest.mark.slow
def test_sums_over_three_ranks_go_on_in_the_same_order(tmp_path: Path) -> None:
    steps = ["1", "2", "5"]
    run_ranks("tests.trainer.resumed_ranks:main", [str(tmp_path / "to"), *steps], ranks=3, directory=tmp_path)
    whole = tensors(tmp_path / "to" / "whole", tmp_path / "whole.pt")
    for step in steps:
        resumed = tensors(tmp_path / "to" / step, tmp_path / f"{step}.pt")
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == [], step
