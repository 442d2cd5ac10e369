"""What every test stands on: it never sees the user's installation, nor skips real data in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest

from infra.settings import get_settings
from tests.object_store import BUCKET, ObjectServer, object_server
from tests.shared import made_once

# read before any test is isolated from the environment
REAL_DATA = os.environ.get("USERMODEL_DATA_DIR")  # noqa: TID251
IN_CI = os.environ.get("CI") == "true"  # noqa: TID251


# an example's time is the machine's load; what hangs ends with pytest's own timeout
hypothesis.settings.register_profile("usermodel", deadline=None)
hypothesis.settings.load_profile("usermodel")


_FIRST = "tests/faults/test_with_schedulers.py"
"""Starts all of Airflow, as `tests/infra/test_services.py` does: better not at the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first: the one that begins last is then a short one, and no worker waits long."""
    slow = Counter(item.location[0] for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.location[0] != _FIRST, -slow[item.location[0]]))


@pytest.fixture(autouse=True)
def _isolated_from_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """`get_settings()` finds a home folder of its own, and none of the user's settings."""
    for name in [name for name in os.environ if name.startswith("USERMODEL_")]:  # noqa: TID251
        monkeypatch.delenv(name)
    monkeypatch.setenv("USERMODEL_HOME", str(tmp_path_factory.mktemp("home")))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder of the real logs. Without it a test skips; in CI it fails."""
    if REAL_DATA is not None and Path(REAL_DATA).is_dir():
        return Path(REAL_DATA).resolve()
    reason = f"no real logs: USERMODEL_DATA_DIR is {REAL_DATA or 'not set'}; set it to their folder"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made: seconds, paid once by all workers."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "empty-store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def object_storage() -> Iterator[ObjectServer]:
    """One S3 server for all tests of this process: seconds, paid once."""
    with object_server() as server:
        yield server


@pytest.fixture
def bucket(object_storage: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://BUCKET/PREFIX, the test's own and empty, which this process and its children reach."""
    object_storage.fail()
    object_storage.use(monkeypatch)
    yield f"s3://{BUCKET}/{uuid4().hex[:8]}"
    object_storage.fail()
