"""The connections to each server: opened when they are needed, as many as callers at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.client.breaker import Breaker
from serving.client.wire import BrokenError, Target, Wire


class Pool:
    """To one server. breaker: of the reads. Thread-safe."""

    def __init__(self, target: Target, breaker: Breaker) -> None:
        self.target, self.breaker = target, breaker
        self._idle: list[Wire] = []

    def call(
        self, commands: bytes, num_answers: int, *, deadline: float, meanwhile: Callable[[], object] | None = None
    ) -> list[Any]:
        """As `Wire.call`. What an idle connection does not take, because the server closed it, a new one does."""
        try:
            wire = self._idle.pop()
        except IndexError:
            pass
        else:
            try:
                answers = wire.call(commands, num_answers, deadline=deadline, meanwhile=meanwhile)
            except BrokenError:
                self.close()
            else:
                self._idle.append(wire)
                return answers
        wire = Wire(self.target, deadline=deadline)
        answers = wire.call(commands, num_answers, deadline=deadline, meanwhile=meanwhile)
        self._idle.append(wire)
        return answers

    def close(self) -> None:
        """Every idle connection; new ones are opened when they are needed."""
        idle, self._idle = self._idle, []
        for wire in idle:
            wire.close()
