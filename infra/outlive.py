"""What becomes of the processes that run Airflow's tasks when the scheduler or edge worker that forked them is killed.

A task goes on: it reports to the web server, not to its scheduler. But it also copies its log to its parent's output, a
pipe whose reader closes it, and the write that fails would end it; and LocalExecutor's idle processes would wait for a
next task for ever. So the kernel tells them of their parent's death.
"""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

from setproctitle import getproctitle

IDLE_TITLE = "<idle>"
"""How LocalExecutor's processes call themselves between two tasks."""
LOOK_AGAIN_SECONDS = 5
_PR_SET_PDEATHSIG = 1


def outlive_this_process() -> None:
    """Have every process that this one forks end after its task, if this one is killed, and not before."""
    parent = os.getpid()
    os.register_at_fork(after_in_child=lambda: _expect_the_end(parent))


def _expect_the_end(parent: int) -> None:
    if os.getppid() == parent:  # what they fork in turn is their own affair
        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, _go_on_alone)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


def _go_on_alone(number: int, frame: FrameType | None) -> None:
    if getproctitle().endswith(IDLE_TITLE):
        os._exit(0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
    signal.alarm(LOOK_AGAIN_SECONDS)
