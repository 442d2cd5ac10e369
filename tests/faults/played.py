"""A scenario as the suite plays it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import PLAYED
from tests.faults.scenario import Trial, play
from tests.faults.world import World


def assert_promised(name: str, world: World, folder: Path) -> None:
    """A few of the fault, each survived; skipped with the reason where this machine cannot play it."""
    outcome = play(PLAYED[name], Trial(world=world, folder=folder, seed=0, quick=True))
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.broken == ()
    assert outcome.survived == outcome.injected > 0
