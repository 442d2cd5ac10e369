"""The snapshots' worlds serve here too; and three promoted days of the tiny one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.lake import Lake
from infra.settings import Settings
from snapshots.inference import infer
from snapshots.promotion import promote
from tests.snapshots.conftest import _one_thread, lake, recipe, settings
from tests.snapshots.world import DAYS, commit_users, make_tower, publish_day, tiny_recipe

__all__ = ["_one_thread", "lake", "promoted_days", "recipe", "settings", "three_days"]


@pytest.fixture(scope="session")
def promoted_days(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Settings:
    """Three promoted days of the tiny model, of users 0-39, 10-49 and 20-59. To be read only."""
    folder, model = tmp_path_factory.mktemp("promoted"), tiny_recipe()
    shutil.copy(empty_store, folder / "mlflow.db")
    made = Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for number, ds in enumerate(DAYS[:3]):
            commit_users(Lake(made.lake), ds, range(10 * number, 40 + 10 * number))
            publish_day(model, ds, make_tower(model, noise=0.1 * number), settings=made)
            infer(model, ds, settings=made)
            promote(model, ds, settings=made, by="test")
    return made


@pytest.fixture
def three_days(promoted_days: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of them, to be changed."""
    shutil.copytree(promoted_days.home, tmp_path / "home")
    shutil.copy(promoted_days.home.parent / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)
