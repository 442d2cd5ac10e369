from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.object_store import ObjectServer, object_server


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectServer]:
    """Shared: a test takes a prefix of its own, and leaves no fault behind."""
    with object_server() as made:
        yield made
