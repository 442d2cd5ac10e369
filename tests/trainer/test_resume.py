"""A day goes on where it was, to the bit, at the same ranks. `tests.faults` kills it for real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.attempts import Fault, attempt, failure, settings_of
from tests.faults.world import World
from tests.trainer.test_checkpoint import tensors
from trainer.launch import run_ranks


@pytest.mark.slow
def test_other_ranks_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    home = World(tmp_path / "world").fresh(tmp_path / "home")
    failure(settings_of(home), Fault(moment="learning", step=7))
    alone = attempt(settings_of(home, ranks=1))
    assert "saved at 2 ranks: this job has 1" in caplog.text
    assert (alone.resumed, alone.ranks, alone.metrics["click"]["examples"]) == (0, 1, 4000)


@pytest.mark.slow
def test_sums_over_three_ranks_go_on_in_the_same_order(tmp_path: Path) -> None:
    steps = ["1", "2", "5"]
    run_ranks("tests.trainer.resumed_ranks:main", [str(tmp_path / "to"), *steps], ranks=3, directory=tmp_path)
    whole = tensors(tmp_path / "to" / "whole", tmp_path / "whole.pt")
    for step in steps:
        resumed = tensors(tmp_path / "to" / step, tmp_path / f"{step}.pt")
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == [], step
