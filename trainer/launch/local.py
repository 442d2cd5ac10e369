"""Ranks of this machine, started by TorchX through torchrun, on loopback alone."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchx.runner import Runner
from torchx.schedulers import local_scheduler
from torchx.schedulers.api import Stream
from torchx.specs import AppState

from trainer.failure import cause
from trainer.launch.role import ROLE, Work, local_app

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_LAST_LINES = 200
_NOISE = re.compile(r"\[Gloo\]|is_fx_tracing|^\s*$")
_SIGNALLED = re.compile(r"Signal (?!15 )\d+ \(\w+\) received by PID \d+")
"""Of a rank that died; torchrun itself ends the others with signal 15."""


def run_ranks(entry: str, arguments: list[str], *, ranks: int, directory: Path) -> None:
    """Call `entry` (`module:function`) with `arguments` on `ranks` ranks and stream their lines to our log.

    directory: exists; receives the job's logs and a rank's `error-<rank>.json`. RuntimeError with the first
    failing rank's message when the job does not succeed. However this process dies, so do the ranks.
    """
    app = local_app(Work(entry=entry, arguments=tuple(arguments), directory=directory), ranks=ranks)
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    with _handlers_restored(), Runner("usermodel", {"local_cwd": local_scheduler.create_scheduler}) as runner:
        handle = runner.run(app, scheduler="local_cwd", cfg={"log_dir": str(directory / "torchx")})
        streamer = threading.Thread(target=_stream, args=(runner, handle, lines), name="job-log", daemon=True)
        streamer.start()
        try:
            status = runner.wait(handle, wait_interval=_POLL_SECONDS)
        except BaseException:
            runner.cancel(handle)
            raise
        streamer.join()
    if status is None or status.state != AppState.SUCCEEDED:
        state = "UNKNOWN" if status is None else status.state.name
        raise RuntimeError(f"training job {state}: {_reason(directory, lines)} (log: {directory})")


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """TorchX's local scheduler takes SIGTERM and SIGINT over; give them back afterwards."""
    names = (signal.SIGTERM, signal.SIGINT)
    before = {name: signal.getsignal(name) for name in names}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for name, handler in before.items():
                signal.signal(name, handler)


def _stream(runner: Runner, handle: str, lines: deque[str]) -> None:
    for line in runner.log_lines(handle, ROLE, k=0, should_tail=True, streams=Stream.COMBINED):
        text = line.rstrip("\n")
        lines.append(text)
        if not _NOISE.search(text):
            log.info("| %s", text)


def _reason(directory: Path, lines: deque[str]) -> str:
    """The failure that explains the others: a rank's own error or a wait that it gave up; else (a rank was
    killed) what torchrun saw; else a lost connection; else the last lines."""
    failure = cause(directory)
    killed = next((match.group(0) for line in reversed(lines) if (match := _SIGNALLED.search(line))), None)
    if killed is not None and (failure is None or failure.kind == "broken"):
        return f"a rank was killed: {killed}"
    if failure is not None:
        return f"rank {failure.rank}: {failure.type}: {failure.message}"
    return "no rank left a message; the last lines were:\n" + "\n".join(list(lines)[-10:])
