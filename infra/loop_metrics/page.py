"""The page: what was collected last, at once; when that is old, it is collected again behind the answer.

A process of its own collects and ends: the libraries that it reads with take hundreds of MiB, the page a few. Nobody
asks, nothing is collected.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from infra.loop_metrics.families import UP
from infra.settings import REPOSITORY, Settings, child_environment
from serving.secured.listen import OPEN, Secured, secured
from serving.secured.page import Page

log = logging.getLogger(__name__)

EVERY_SECONDS = 120.0
LONGEST_SECONDS = 300.0
"""For one collection; then it is ended, and the page stays as it was."""
MOST_BYTES = 4 << 20
_BEHIND = ("setpriv", "--pdeathsig", "KILL", "nice", "-n", "10")
"""A collection ends with the page's process, and training goes first."""
NOTHING = f'# HELP {UP.name} {UP.meaning}\n# TYPE {UP.name} gauge\n{UP.name}{{source="collection"}} 0\n'.encode()
"""Before the first collection."""


class Collected:
    """The text of the last collection. Safe among threads. command: prints a page."""

    def __init__(self, command: Sequence[str], *, settings: Settings, every_seconds: float = EVERY_SECONDS) -> None:
        self._command, self._settings, self._every_seconds = command, settings, every_seconds
        self._lock = threading.Lock()
        self._text = NOTHING
        self._next = 0.0
        self._runs = False

    def text(self) -> bytes:
        """Never waits."""
        with self._lock:
            if not self._runs and time.monotonic() >= self._next:
                self._runs = True
                threading.Thread(target=self._collect, name="collect", daemon=True).start()
            return self._text

    def _collect(self) -> None:
        try:
            made = subprocess.run(
                [*_BEHIND, *self._command], env=child_environment(PYTHONPATH=str(REPOSITORY)), cwd=self._settings.home,
                capture_output=True, timeout=LONGEST_SECONDS, check=False,
            )  # fmt: skip
            if made.returncode or not made.stdout or len(made.stdout) > MOST_BYTES:
                raise OSError(f"exit status {made.returncode}: {made.stderr[-500:].decode(errors='replace')}")
            text = made.stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.error("the loop's metrics were not collected: %s", error)
            text = None
        with self._lock:
            self._text = self._text if text is None else text
            self._next, self._runs = time.monotonic() + self._every_seconds, False


def serve(settings: Settings, *, host: str, port: int, every_seconds: float = EVERY_SECONDS) -> None:
    """Until SIGTERM or SIGINT. ValueError: beyond loopback without TLS or tokens. OSError: the port is taken."""
    page = open_page(settings, host=host, port=port, every_seconds=every_seconds, demands=secured(host, settings))
    log.info("the loop's metrics are at %s:%d", host, page.server_port)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    page.stop()


def open_page(
    settings: Settings, *, host: str, port: int, every_seconds: float = EVERY_SECONDS, demands: Secured = OPEN
) -> Page:
    """Answers from now on, until `stop`."""
    command = [sys.executable, "-m", "infra.commands", "infra", "metrics", "--once"]
    collected = Collected(command, settings=settings, every_seconds=every_seconds)
    return Page(collected.text, host=host, port=port, demands=demands).start()
