"""The world of a file's scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once; scenarios take copies."""
    with closing(World(tmp_path_factory.mktemp("faults"))) as made:
        yield made
