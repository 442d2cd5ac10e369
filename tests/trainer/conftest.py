from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from features.lake import Lake
from infra.settings import Settings
from tests.trainer.launch import slurm_here
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer.job import train
from trainer.launch import remote
from trainer.trained import TrainedDay


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with three days of the planted world in its lake. Shared: leave it alone."""
    settings = Settings(home=tmp_path_factory.mktemp("trainer"), ranks=2, _env_file=None)
    for day in range(3):
        commit_day(Lake(settings.lake), DAY + timedelta(day), num_rows=4000)
    return settings


@pytest.fixture(scope="session")
def pair(home: Settings) -> tuple[TrainedDay, TrainedDay]:
    """Two days trained at two ranks, the second from the first."""
    first = train(planted_recipe(), DAY, settings=home)
    return first, train(planted_recipe(), DAY + timedelta(1), settings=home)


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
