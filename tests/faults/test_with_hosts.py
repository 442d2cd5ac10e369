"""Each fault of other hosts: cut off, lost, of a cluster, and of the storage that they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import played
from tests.faults.played import assert_promised
from tests.faults.world import World


@pytest.mark.slow
@pytest.mark.parametrize("name", played("hosts"))
def test_what_was_promised_holds(name: str, world: World, tmp_path: Path) -> None:
    assert_promised(name, world, tmp_path)
