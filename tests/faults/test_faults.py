"""Each fault, a few times: what `infra/faults --quick` plays."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.faults import catalogue
from tests.faults.__main__ import main
from tests.faults.catalogue import PARTS, PLAYED, SCENARIOS, played
from tests.faults.played import assert_promised
from tests.faults.scenario import Outcome, SkippedError, Trial, promise_of
from tests.faults.world import World


@pytest.mark.slow
@pytest.mark.parametrize("name", played("alone"))
def test_what_was_promised_holds(name: str, world: World, tmp_path: Path) -> None:
    assert_promised(name, world, tmp_path)


def test_every_fault_has_a_file() -> None:
    assert sorted(name for part in PARTS for name in played(part)) == sorted(PLAYED)
    files = {path.stem.removeprefix("test_with_") for path in Path(__file__).parent.glob("test_with_*.py")}
    assert files == PARTS.keys() - {"alone"}


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
