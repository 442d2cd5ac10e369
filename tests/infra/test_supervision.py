from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.processes import is_alive
from infra.settings import Settings, child_environment
from infra.supervision import RUNNING, Program, Supervisor


def sleeper(name: str, *, seconds: int = 600) -> Program:
    return Program(name=name, command=["sleep", str(seconds)])


def until_it_runs(supervisor: Supervisor, name: str) -> int:
    """The pid of a program that was asked to start."""
    deadline = time.monotonic() + 30
    while (program := supervisor.processes()[name]).state != RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return program.pid


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """Runs, and nothing under it."""
    made = Supervisor(Settings(home=tmp_path, _env_file=None))
    made.launch([sleeper("stays"), sleeper("goes")], environment=child_environment())
    yield made
    made.shutdown()


def test_programs_come_and_go_while_others_run(supervisor: Supervisor) -> None:
    supervisor.start(["stays", "goes"])
    before = supervisor.processes()
    assert supervisor.update([sleeper("stays"), sleeper("goes")]), "nothing to do"
    assert supervisor.update([sleeper("stays"), sleeper("comes")])
    assert not is_alive(before["goes"].pid)
    supervisor.start(["comes"])
    until_it_runs(supervisor, "comes")
    after = supervisor.processes()
    assert after.keys() == {"stays", "comes"}
    assert after["stays"].pid == before["stays"].pid

    assert not supervisor.update([sleeper("stays", seconds=601), sleeper("other")]), "one that stays is another"
    assert supervisor.processes().keys() == {"stays", "comes"}


def test_one_that_dies_as_it_is_stopped_stays_stopped(supervisor: Supervisor) -> None:
    """supervisord starts again what dies, and had not seen yet that it was dead when it was asked to stop it."""
    for _ in range(2):
        supervisor.start(["goes"])
        os.kill(until_it_runs(supervisor, "goes"), signal.SIGKILL)
        supervisor.stop(["goes"])
        assert supervisor.processes()["goes"].pid == 0
