from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from features.lake import Lake
from infra.settings import Settings
from tests.shared import made_once
from tests.trainer.launch import slurm_here
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import train
from trainer.launch import remote
from trainer.trained import TrainedDay, trained_days


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with three days of the planted world in its lake. Shared: leave it alone."""
    settings = Settings(home=tmp_path_factory.mktemp("trainer"), ranks=2, _env_file=None)
    for day in range(3):
        commit_day(Lake(settings.lake), DAY + timedelta(day), num_rows=4000)
    return settings


@pytest.fixture(scope="session")
def pair(home: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedDay, TrainedDay]:
    """Two days trained at two ranks, the second from the first; this worker's copy."""

    def make(folder: Path) -> None:
        there = home.model_copy(update={"home": folder, "lake_uri": home.lake})
        for ds in (DAY, DAY + timedelta(1)):
            train(planted_recipe(), ds, settings=there)

    shutil.copytree(made_once(tmp_path_factory, "pair", make), home.home, dirs_exist_ok=True)
    first, second = trained_days(home, "tiny")
    return first, second


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of this machine, behind Slurm's commands in the folder's `bin`; its jobs end with the test."""
    for name, value in slurm_here.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "_POLL_SECONDS", 0.1)
    yield tmp_path
    for job in (tmp_path / "cluster").iterdir():
        slurm_here.scancel([job.name])


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
