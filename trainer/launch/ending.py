"""When a process that waits for a job is asked to end."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

_TERMINATED = 128 + signal.SIGTERM


class AskedToEnd:
    """For its block SIGTERM and Ctrl-C raise SystemExit and KeyboardInterrupt: Airflow's own handler would let a task
    go on waiting. They do so from `answer` on, or where the block ends: while a job is being submitted nobody knows
    yet what to cancel. Only the first counts: what it makes us do is not done by halves. Nothing outside of the main
    thread, which alone gets signals.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._asked = 0
        self._answers = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.answer()

    def answer(self) -> None:
        """End, if that was asked for meanwhile; from here on at once."""
        self._answers = True
        if not self._asked:
            return
        self._answers = False
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(_TERMINATED)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if not self._asked:
            self._asked = number
            if self._answers:
                self.answer()
