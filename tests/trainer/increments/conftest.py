from __future__ import annotations

from datetime import timedelta

import pytest

from features.lake import Lake
from infra.settings import Settings
from tests.trainer.increments.world import large_recipe
from tests.trainer.planted import DAY, commit_day
from trainer.job import train
from trainer.trained import TrainedDay

Chain = tuple[TrainedDay, TrainedDay, TrainedDay]


@pytest.fixture(scope="session")
def large_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with three days in its lake. Shared: leave it alone."""
    settings = Settings(home=tmp_path_factory.mktemp("increments"), ranks=2, _env_file=None)
    for day in range(3):
        commit_day(Lake(settings.lake), DAY + timedelta(day), num_rows=2000)
    return settings


@pytest.fixture(scope="session")
def chain(large_home: Settings) -> Chain:
    """Three days trained at two ranks."""
    first, second, third = (train(large_recipe(), DAY + timedelta(day), settings=large_home) for day in range(3))
    return first, second, third
