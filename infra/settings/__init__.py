"""Every setting of the project, and the only package that reads the environment.

A setting comes from, in this order: the environment (`USERMODEL_…`), the file `settings.env` in the home
folder (written by `usermodel infra up --data …`), the default beside its field.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from infra.settings.base import LOOPBACK, REPOSITORY, is_loopback
from infra.settings.environment import (
    aws_environment,
    child_environment,
    export,
    mlflow_headers,
    service_host,
    slurm_node,
    torchrun_rank,
)
from infra.settings.loop import EDGE_STEPS, Loop
from infra.settings.serving import Serving
from infra.settings.training import Training

__all__ = [
    "EDGE_STEPS",
    "LOOPBACK",
    "REPOSITORY",
    "SECRETS",
    "Settings",
    "aws_environment",
    "child_environment",
    "export",
    "get_settings",
    "is_loopback",
    "mlflow_headers",
    "service_host",
    "slurm_node",
    "torchrun_rank",
]

SECRETS = ("alert_urls", "redis_url")
"""Settings that `infra up` keeps in `<home>/credentials`, not in `settings.env`."""


class Settings(Training, Loop, Serving):
    """The settings of one installation. Frozen: a process reads them once."""

    def remember(self, *, data_dir: Path | None = None, served: Sequence[str] | None = None) -> Settings:
        """Keep what was set in `settings.env`, so that services and later commands see the same settings."""
        kept = self if served is None else self.model_copy(update={"serving_models": " ".join(served)})
        if data_dir is not None:
            if not data_dir.is_dir():
                raise ValueError(f"{data_dir} is no folder; give the one that holds the logs")
            kept = kept.model_copy(update={"data_dir": data_dir.resolve()})
        chosen = kept.model_dump(mode="json", include=kept.model_fields_set - {"home", *SECRETS}, exclude_none=True)
        self.home.mkdir(parents=True, exist_ok=True)
        lines = [f"USERMODEL_{name.upper()}={value}\n" for name, value in sorted(chosen.items())]
        (self.home / "settings.env").write_text("".join(lines))
        return kept


@cache
def get_settings() -> Settings:
    """The settings of this process."""
    home = Path(os.environ.get("USERMODEL_HOME", REPOSITORY / ".local"))  # noqa: TID251
    return Settings(_env_file=home / "settings.env")
