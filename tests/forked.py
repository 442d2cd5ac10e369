"""Processes that are forked from one that has imported the libraries: an interpreter of their own takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.settings import REPOSITORY

FORK_SERVER = multiprocessing.get_context("forkserver")
# As `infra.warm` does, and for its reasons: imported and not used, for a library's threads would not survive the fork.
FORK_SERVER.set_forkserver_preload(["deltalake", "mlflow", "polars", "torchrec", "torchx.runner"])


def run_module(name: str, arguments: Sequence[str], *, env: Mapping[str, str], folder: Path) -> tuple[int, str, str]:
    """`python -m NAME ARGUMENTS…` in the repository's root: its exit code, its output and its errors."""
    out, err = folder / "output", folder / "errors"
    started: Any = FORK_SERVER.Process(target=_run_module, args=(name, list(arguments), dict(env), out, err))
    started.start()
    started.join()
    return started.exitcode, out.read_text(), err.read_text()


def _run_module(name: str, arguments: list[str], env: dict[str, str], out: Path, err: Path) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()  # noqa: TID251
    os.environ.update(env)  # noqa: TID251
    os.chdir(REPOSITORY)
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
