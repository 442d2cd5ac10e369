"""torchrun's elastic agent, with its ranks forked.

`python -m trainer.agent MODULE:FUNCTION RANKS DIRECTORY ARGUMENTS…`

`torchrun` starts an interpreter per rank, and each spends seconds of CPU importing torch and TorchRec. Here
the agent imports the rank's module once and forks, before any thread, socket or CUDA context exists.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from infra.settings import LOOPBACK

_POLL_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Run the function on every rank; 1 if one of them failed."""
    entry, ranks, directory, *arguments = argv[1:]
    module, _, name = entry.partition(":")
    function = getattr(importlib.import_module(module), name)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(ranks),
        run_id=Path(directory).name,
        # A store in a file: the ranks of one machine need no port, and torch's would listen everywhere.
        rdzv_backend="c10d",
        rdzv_endpoint=str(Path(directory) / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr=LOOPBACK,
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=directory),
    )
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the ranks have ended; taking torch apart would take another second
