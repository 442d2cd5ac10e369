"""One process of the service that `tests.faults.online` starts: ROLE HOME MLFLOW_URI STORE_PORT PORT."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from infra.settings import LOOPBACK, Settings
from tests.snapshots.tiny import tiny_recipe
from trainer.recipe import Recipe
from trainer.serving import Serving

DEADLINE_MS = 250.0
"""Of a read: a busy machine may take its time."""
_CLAIM_SECONDS = 1.0
_POLL_SECONDS = 0.2


def recipe() -> Recipe:
    """What is served."""
    return replace(tiny_recipe(), serving=Serving(deadline_ms=DEADLINE_MS))


def compute(settings: Settings, url: str, port: int) -> None:
    """A worker of the compute center, which takes over soon and looks at the champion often."""
    from serving.compute.service import serve
    from serving.compute.worker import Options
    from serving.keys import ONE_SERVER

    serve(
        [recipe()], settings=settings, url=url, keys=ONE_SERVER, options=Options(claim_seconds=_CLAIM_SECONDS),
        metrics_port=port, poll_seconds=_POLL_SECONDS,
    )  # fmt: skip


def http(settings: Settings, url: str, port: int) -> None:
    """The HTTP face."""
    from serving.client.model import Model
    from serving.http.limits import Limits
    from serving.http.server import server_of, service

    app = service([Model.of(recipe())], store_url=url, partitions=1, limits=Limits())
    server_of(app, host=LOOPBACK, port=port, limits=Limits()).run()
    assert "torch" not in sys.modules, "what answers reads never waits for torch, not even to import it"


def main(role: str, home: str, mlflow_uri: str, store_port: str, port: str) -> None:
    """Until it is told to end."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    settings = Settings(home=Path(home), mlflow_uri=mlflow_uri, _env_file=None)
    {"http": http, "compute": compute}[role](settings, f"redis://{LOOPBACK}:{store_port}", int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
