from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.debian import NoPackagesError, unpack
from tests.shared import made_once


@pytest.fixture(scope="session")
def prometheus_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `prometheus` and `promtool`: this machine's, or Debian's package unpacked, once for all workers."""
    if (found := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(found).parent
    try:
        folder = made_once(tmp_path_factory, "prometheus", lambda made: unpack(["prometheus"], made, alone=True))
    except NoPackagesError as error:
        pytest.skip(f"prometheus is not on the PATH, and Debian's package of that name cannot be had: {error}")
    return folder / "usr" / "bin"
