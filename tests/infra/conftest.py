from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.debian import NoPackagesError, unpack
from trainer.locks import file_lock


@pytest.fixture(scope="session")
def prometheus_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `prometheus` and `promtool`: this machine's, or Debian's package unpacked, once for all workers."""
    if (found := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(found).parent
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if own.name.startswith("popen-") else own
    folder = shared / "prometheus"
    with file_lock(shared / "prometheus.lock"):
        try:
            if not folder.exists():
                unpack(["prometheus"], folder, alone=True)
        except NoPackagesError as error:
            pytest.skip(f"prometheus is not on the PATH, and Debian's package of that name cannot be had: {error}")
    return folder / "usr" / "bin"
