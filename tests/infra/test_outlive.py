from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import outlive
from infra.processes import is_alive
from infra.settings import REPOSITORY

PARENT = """
import os, sys, time
from setproctitle import setproctitle
from infra.outlive import IDLE_TITLE, outlive_this_process

outlive_this_process()
kind, folder = sys.argv[1], sys.argv[2]
if os.fork() == 0:
    setproctitle(f"worker {IDLE_TITLE}" if kind == "idle" else "worker of a task")
    print("up", os.getpid(), flush=True)
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.02)
    print("what nobody reads any more", flush=True)
    open(f"{folder}/done", "w").close()
    setproctitle(f"worker {IDLE_TITLE}")
    time.sleep(600)
time.sleep(600)
"""


def until(condition: Callable[[], bool], *, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


@pytest.mark.parametrize("kind", ["idle", "busy"])
def test_a_task_outlives_what_forked_it_and_an_idle_process_does_not(tmp_path: Path, kind: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, kind, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    word, pid = parent.stdout.readline().split()
    assert word == "up"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        if kind == "busy":
            time.sleep(0.1)
            assert is_alive(int(pid))
            (tmp_path / "go").touch()
            assert until(lambda: (tmp_path / "done").exists())
        assert until(lambda: not is_alive(int(pid)), seconds=outlive.LOOK_AGAIN_SECONDS + 30)
        assert (tmp_path / "done").exists() == (kind == "busy")
    finally:
        if is_alive(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
