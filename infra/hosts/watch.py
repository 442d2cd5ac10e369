"""Watches a job from outside and lets a fault befall it in the midst of the day."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.hosts.faults import Fault
from infra.hosts.job import HostsJob
from infra.hosts.rack import Rack
from trainer.heartbeat import Phase, Post, read_sign

_TICK_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0
_STEPS_BEFORE = 2
"""Are learnt after the first checkpoint within the day, before the fault befalls."""


class Watch:
    """While the block runs: injects the fault once a checkpoint within the day is there, and heals it when its time
    has come, at the latest at the end.

    waypoints: the folder under which the day's appear.
    """

    def __init__(self, fault: Fault, rack: Rack, job: HostsJob, *, waypoints: Path) -> None:
        self.injected_at: float | None = None
        """Monotonic; None: not yet."""
        self.step = 0
        """Of the fault."""
        self._fault, self._rack, self._job, self._waypoints = fault, rack, job, waypoints
        self._seen: list[tuple[float, int]] = []
        self._healed, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    @property
    def step_ms(self) -> float:
        """Mean of the steps from the fault on; NaN for less than two."""
        if len(self._seen) < 2:
            return float("nan")
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return 1000 * (ended - began) / (last - first)

    def wait_until_healed(self) -> None:
        """RuntimeError: it does not heal."""
        if not self._healed.wait(_PATIENCE_SECONDS):
            raise RuntimeError(f"the fault did not heal within {_PATIENCE_SECONDS:g} s")

    def __enter__(self) -> Self:
        if self._fault.from_start:
            self._inject(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._heal()

    def _watch(self) -> None:
        first: int | None = None
        while not self._ended.wait(_TICK_SECONDS):
            step = self._learning()
            if self.injected_at is None:
                if step is not None and any(self._waypoints.rglob("step=*/manifest.json")):
                    first = step if first is None else first
                    if step >= first + _STEPS_BEFORE:
                        self._inject(step)
                continue
            if step is not None and (not self._seen or step > self._seen[-1][1]):
                self._seen.append((time.monotonic(), step))
            if self._fault.heals_seconds and time.monotonic() - self.injected_at > self._fault.heals_seconds:
                self._heal()

    def _learning(self) -> int | None:
        """The step that rank 0 of the first attempt is at, while it learns."""
        if self._job.directory is None:
            return None
        sign = read_sign(Post(directory=self._job.directory, rank=0, world_size=1, deadline_seconds=1), 0)
        return sign.step if sign is not None and sign.phase in (Phase.READING, Phase.LEARNING) else None

    def _inject(self, step: int) -> None:
        self._fault.inject(self._rack)
        self.injected_at, self.step = time.monotonic(), step

    def _heal(self) -> None:
        if not self._healed.is_set():
            self._fault.heals(self._rack)
            self._healed.set()
