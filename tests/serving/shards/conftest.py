from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infra.settings import Settings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of its own; the shards need no MLflow."""
    return Settings(home=tmp_path / "home", _env_file=None)
