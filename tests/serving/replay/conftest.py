from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from features.lake import Lake
from infra.settings import Settings
from tests.serving.replay.world import REPLAYED, Seen, commit_events, events_of, walk
from tests.snapshots.days import promoted_day
from tests.snapshots.world import tiny_recipe


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three promoted days of the tiny model, and two days of requests. To be read only."""
    folder = tmp_path_factory.mktemp("replay")
    settings = Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for day in range(3):
            promoted_day(tiny_recipe(), day, settings)
        for ds in REPLAYED:
            commit_events(Lake(settings.lake), ds, events_of(ds))
    return settings


@pytest.fixture(scope="session")
def undisturbed(trained: Settings) -> list[Seen]:
    """What its requests are served."""
    return walk(trained, REPLAYED)


@pytest.fixture
def changed(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of its lake, whose examples a test may change; the registry is the same."""
    shutil.copytree(trained.lake, tmp_path / "lake")
    return trained.model_copy(update={"lake_uri": str(tmp_path / "lake")})
