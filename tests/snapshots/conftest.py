from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from features.examples import build_examples
from features.lake import Lake
from infra.settings import Settings
from tests.shared import made_once
from tests.snapshots.learners import make_ready
from tests.snapshots.trained import SMALL_DAYS, run_day, small_recipe
from tests.snapshots.world import tiny_recipe
from trainer.recipe import Recipe


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of its own, with a real MLflow store; artifacts land beside it, not in the repository."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake(settings.lake)


@pytest.fixture
def recipe() -> Recipe:
    return tiny_recipe()


@pytest.fixture(scope="session")
def small_days(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Recipe, Settings]:
    """Two days really trained, published and promoted, and the examples of a third. To be read only."""
    recipe = small_recipe()

    def settings_of(folder: Path) -> Settings:
        uri = f"sqlite:///{folder}/mlflow.db"
        return Settings(home=folder / "home", mlflow_uri=uri, ranks=1, _env_file=None)

    def make(folder: Path) -> None:
        shutil.copy(empty_store, folder / "mlflow.db")
        settings = settings_of(folder)
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            for ds in SMALL_DAYS[:2]:
                run_day(recipe, ds, settings)
            build_examples(recipe.source, SMALL_DAYS[2], settings=settings, reject_max_share=recipe.reject_max_share)

    return recipe, settings_of(made_once(tmp_path_factory, "small", make))


@pytest.fixture(scope="session")
def ready_days(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Settings:
    """Four days of the tiny model, embedded and not decided, with examples to learn from. To be read only."""
    folder = tmp_path_factory.mktemp("ready")
    shutil.copy(empty_store, folder / "mlflow.db")
    made = Settings(home=folder / "home", mlflow_uri=f"sqlite:///{folder}/mlflow.db", _env_file=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        make_ready(made)
    return made
