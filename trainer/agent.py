"""torchrun's elastic agent, with its ranks forked.

`python -m trainer.agent [OPTIONS] MODULE:FUNCTION RANKS DIRECTORY ARGUMENTS…`

`torchrun` starts an interpreter per rank, and each spends seconds of CPU importing torch and TorchRec. Here
the agent imports the rank's module once and forks, before any CUDA context exists.

Of one host (no `--nodes`) the ranks meet in a file: there is no port. Of several, one agent per host, all with the
same `--nodes` and RANKS (of each host): see `trainer.rendezvous`. All hosts see DIRECTORY.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError, rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from infra.settings import LOOPBACK, export, slurm_node
from trainer import rendezvous
from trainer.rendezvous import Hosts

_POLL_SECONDS = 0.1
_STORE = "rendezvous"


def main(argv: list[str]) -> int:
    """Run the function on every rank; 1 if one of them failed, or the hosts did not meet."""
    told = _parse(argv[1:])
    module, _, name = told.entry.partition(":")
    config = _one_host(told) if told.nodes is None else _several_hosts(told)
    function = getattr(importlib.import_module(module), name)
    try:
        elastic_launch(config, function)(*told.arguments)
    except (ChildFailedError, RendezvousError, TimeoutError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.agent", allow_abbrev=False)
    parser.add_argument("--nodes", type=int, help="hosts; when one is lost, the others wait for it or fail")
    parser.add_argument(
        "--node-rank", type=int, help="of this host; 0 listens. Default: Slurm's, else whose address --rendezvous is"
    )
    parser.add_argument("--rendezvous", help="HOST:PORT where node 0 listens; default: a free port, told in DIRECTORY")
    parser.add_argument("--interface", default="lo", help="network interface between the hosts")
    parser.add_argument("--max-restarts", type=int, default=0, help="start all ranks again so often when one fails")
    parser.add_argument("--join-seconds", type=int, default=600, help="until all hosts are there")
    parser.add_argument("--lost-seconds", type=int, default=15, help="a host that is silent for so long is lost")
    parser.add_argument("entry", metavar="MODULE:FUNCTION")
    parser.add_argument("ranks", type=int, metavar="RANKS")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    return parser.parse_args(argv)


def _one_host(told: argparse.Namespace) -> LaunchConfig:
    for name in (_STORE, rendezvous.STORE):  # of a job that its scheduler started again
        (told.directory / name).unlink(missing_ok=True)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=told.ranks,
        run_id=told.directory.name,
        # A store in a file: the ranks of one machine need no port, and torch's would listen everywhere.
        rdzv_backend="c10d",
        rdzv_endpoint=str(told.directory / _STORE),
        rdzv_configs={"store_type": "file"},
        local_addr=LOOPBACK,
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(told.directory)),
    )


def _several_hosts(told: argparse.Namespace) -> LaunchConfig:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s agent %(levelname)s %(message)s", datefmt="%H:%M:%S")
    hosts = Hosts(
        nodes=told.nodes,
        node_rank=slurm_node() if told.node_rank is None else told.node_rank,
        address=rendezvous.interface_address(told.interface),
        endpoint=told.rendezvous,
        directory=told.directory,
        join_seconds=told.join_seconds,
        lost_seconds=told.lost_seconds,
    )
    # torch's own store for the ranks would listen everywhere; gloo and NCCL look for an interface of their choice.
    export(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", GLOO_SOCKET_IFNAME=told.interface, NCCL_SOCKET_IFNAME=told.interface)
    rendezvous_handler_registry.register(rendezvous.BACKEND, hosts.handler)
    return LaunchConfig(
        min_nodes=hosts.nodes,
        max_nodes=hosts.nodes,
        nproc_per_node=told.ranks,
        run_id=told.directory.name,
        rdzv_backend=rendezvous.BACKEND,
        rdzv_endpoint=told.rendezvous or "",
        local_addr=hosts.address,
        max_restarts=told.max_restarts,
        monitor_interval=_POLL_SECONDS,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(told.directory)),
    )


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the ranks have ended; taking torch apart would take another second
