"""Each fault of the online service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import played
from tests.faults.played import assert_promised
from tests.faults.world import World


@pytest.mark.slow
@pytest.mark.parametrize("name", played("online"))
def test_what_was_promised_holds(name: str, world: World, tmp_path: Path) -> None:
    assert_promised(name, world, tmp_path)
