"""Each fault of what runs beside training: services, storage, schedulers, other hosts.

A file of its own, so that another worker of the suite plays it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import PLAYED, WITH_SERVICES
from tests.faults.played import assert_promised
from tests.faults.world import World


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLAYED if name in WITH_SERVICES])
def test_what_was_promised_holds(name: str, world: World, tmp_path: Path) -> None:
    assert_promised(name, world, tmp_path)
