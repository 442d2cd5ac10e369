"""Each fault, a few times: what `infra/faults --quick` plays."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import catalogue
from tests.faults.__main__ import main
from tests.faults.catalogue import NOT_IN_THE_SUITE, SCENARIOS
from tests.faults.scenario import Outcome, Scenario, SkippedError, Trial, play, promise_of
from tests.faults.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once; scenarios take copies."""
    with closing(World(tmp_path_factory.mktemp("faults"))) as made:
        yield made


PLAYED = {name: scenario for name, scenario in SCENARIOS.items() if name not in NOT_IN_THE_SUITE}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", PLAYED.values(), ids=PLAYED)
def test_what_was_promised_holds(scenario: Scenario, world: World, tmp_path: Path) -> None:
    outcome = play(scenario, Trial(world=world, folder=tmp_path, seed=0, quick=True))
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.broken == ()
    assert outcome.survived == outcome.injected > 0


def _held(trial: Trial) -> Outcome:
    """Everything holds."""
    logging.getLogger().warning("not for the console")
    return Outcome(injected=2, lost=f"seed {trial.seed}")


def _broken(trial: Trial) -> Outcome:
    """Nothing holds."""
    raise AssertionError("the\nfolder")


def _lacking(trial: Trial) -> Outcome:
    """Nothing is tried."""
    raise SkippedError("no such program")


def test_what_cannot_be_played_is_skipped_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "SCENARIOS", {"lacking": _lacking})
    assert main([]) == 0
    told = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in told[1:]] == [["lacking", "0", "0"], ["total", "0", "0"]]
    assert told[1][4] == "skipped: no such program"


@pytest.mark.parametrize(
    ("names", "status", "survived"), [(["held"], 0, [2, 2, 4]), ([], 1, [2, 0, 2, 0, 4])], ids=["held", "broken"]
)
def test_a_line_for_each_fault_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    status: int,
    survived: list[int],
) -> None:
    monkeypatch.setattr(catalogue, "SCENARIOS", {"held": _held, "broken": _broken})
    assert main([*names, "--rounds", "2", "--json"]) == status
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["survived"] for line in told] == survived
    assert [line["lost"] for line in told if line["fault"].startswith("held")] == ["seed 0", "seed 1"]
    assert all(line["broken"] == ["AssertionError: the folder"] for line in told if line["fault"] == "broken #1")
    assert main([*names]) == status
    shown = capsys.readouterr().out
    assert "not for the console" not in shown
    assert shown.splitlines()[-1].split()[:3] == ["total", str(2 + (status == 1)), "2"]


def test_every_fault_says_what_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)
    assert all(promise_of(scenario) in line for scenario, line in zip(SCENARIOS.values(), lines, strict=True))
    with pytest.raises(SystemExit, match="2"):
        main(["no-such-fault"])
