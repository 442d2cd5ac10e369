"""Each fault, a few times: what `infra/faults --quick` plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import SCENARIOS
from tests.faults.scenario import Scenario, Trial, play
from tests.faults.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; scenarios take copies."""
    return World(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_what_was_promised_holds(scenario: Scenario, world: World, tmp_path: Path) -> None:
    outcome = play(scenario, Trial(world=world, folder=tmp_path, seed=0, quick=True))
    assert outcome.broken == ()
    assert outcome.survived == outcome.injected > 0
