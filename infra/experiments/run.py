"""Measures a study's units, in worker processes, and keeps every unit as soon as it is there.

Whatever was kept is not measured again, so a run that was killed goes on. A unit that fails is named with its seed;
the others go on, and the first error is raised at the end. Where a worker process dies, the units in its pool that may
have killed it are measured once more, each in a pool of its own, and the others in another.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue

import torch

from infra.experiments.setting import Setting
from infra.experiments.study import Results, Study, Trial, Unit, Values, home_of, sources
from infra.settings import Settings
from trainer.worker import die_with_parent

log = logging.getLogger(__name__)

Say = Callable[[str], None]
MOST_WORKERS = 2
"""Beyond that give `workers`: each holds about a gigabyte."""


class UnitError(RuntimeError):
    """A unit failed, and is named; what others gave is kept."""


def run(
    study: Study,
    setting: Setting,
    *,
    settings: Settings,
    workers: int | None = None,
    again: bool = False,
    say: Say = log.info,
) -> Results:
    """The values of every unit. workers: processes, None for one per core but at most two, 0 for none but this one.

    UnitError after all others where one failed.
    """
    home, units = home_of(settings), study.units(setting)
    if again:
        for unit in units:
            unit.forget(home)
    before = [unit.kept(home) for unit in units]
    missing = [unit for unit, kept in zip(units, before, strict=True) if kept is None]
    if len(missing) < len(units):
        say(f"{study.name}: {len(units) - len(missing)} of {len(units)} units are kept from before")
    if others := sum(unit.kept_by_other_code(home) for unit in missing):
        say(f"{study.name}: {others} units were measured by other code; they are measured again")
    if missing:
        width = min(MOST_WORKERS, _cores()) if workers is None else workers
        clock = Clock(units=units, seconds=[kept[1] for kept in before if kept is not None], width=max(width, 1))
        if width == 0:
            failed = _here(study, missing, settings=settings, clock=clock, say=say)
        else:
            failed = _in_workers(study, missing, settings=settings, clock=clock, say=say)
        if failed:
            names = "; ".join(f"{unit}: {type(error).__name__}: {error}" for unit, error in failed)
            raise UnitError(f"{len(failed)} of {len(units)} units failed: {names}") from failed[0][1]
    found: dict[int, dict[str, Values]] = {}
    for unit in units:
        of_unit = unit.kept(home)
        assert of_unit is not None, f"{unit} was measured"
        found.setdefault(unit.seed, {})[unit.part] = of_unit[0]
    return found


@dataclass(kw_only=True)
class Clock:
    """Estimates the time that is left, from the units that are done and from the shares of those under way."""

    units: Sequence[Unit]
    seconds: list[float]
    """The seconds of each unit that is done."""
    width: int
    _num_failed: int = 0
    _began: dict[str, float] = field(default_factory=dict)
    _share: dict[str, float] = field(default_factory=dict)

    def told(self, unit: str, share: float) -> None:
        """That so much of the unit is done."""
        self._began.setdefault(unit, time.monotonic())
        self._share[unit] = max(share, self._share.get(unit, 0.0))

    def done(self, unit: str, seconds: float) -> None:
        """That all of it is."""
        self.stopped(unit)
        self.seconds.append(seconds)

    def failed(self, unit: str) -> None:
        """That it will not be: what it took tells nothing of others."""
        self.stopped(unit)
        self._num_failed += 1

    def stopped(self, unit: str) -> None:
        """That it is to begin anew."""
        self._began.pop(unit, None)
        self._share.pop(unit, None)

    def left(self) -> float | None:
        """Seconds; None before anything is known."""
        now = time.monotonic()
        spent = {unit: now - began for unit, began in self._began.items()}
        known = self.seconds or [spent[unit] / share for unit, share in self._share.items() if share > 0.05]
        if not known:
            return None
        each = sum(known) / len(known)
        waiting = max(len(self.units) - len(self.seconds) - self._num_failed - len(spent), 0)
        return (waiting * each + sum(max(each - of, 0.0) for of in spent.values())) / self.width

    def __str__(self) -> str:
        left = self.left()
        rest = (
            "" if left is None else f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
        )
        return f"[{len(self.seconds) + self._num_failed}/{len(self.units)}{rest}]"


def measure(study: Study, unit: Unit, *, settings: Settings, progress: Callable[[str, float], None]) -> float:
    """One unit, kept; returns its seconds. By one thread, whoever measures: sums of more have another order.

    RuntimeError where the code has changed since the run began.
    """
    if unit.code != sources():
        raise RuntimeError("the code has changed since the run began; run again")
    torch.set_num_threads(1)
    began = time.monotonic()
    values = study.measure(Trial(unit=unit, settings=settings, tell=progress))
    seconds = time.monotonic() - began
    unit.keep(values, home_of(settings), seconds=seconds)
    return seconds


def _here(
    study: Study, units: Sequence[Unit], *, settings: Settings, clock: Clock, say: Say
) -> list[tuple[Unit, BaseException]]:
    failed: list[tuple[Unit, BaseException]] = []
    for unit in units:

        def progress(line: str, share: float, name: str = str(unit)) -> None:
            clock.told(name, share)
            say(f"{clock} {name}: {line}")

        try:
            clock.done(str(unit), measure(study, unit, settings=settings, progress=progress))
        except Exception as error:
            failed.append((unit, error))
            clock.failed(str(unit))
            say(f"{clock} {unit}: failed: {error}")
    return failed


def _in_workers(
    study: Study, units: Sequence[Unit], *, settings: Settings, clock: Clock, say: Say
) -> list[tuple[Unit, BaseException]]:
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads' locks
    queue: SimpleQueue[tuple[str, str, float] | None] = spawn.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, clock, say), name="progress", daemon=True)
    listener.start()
    failed: list[tuple[Unit, BaseException]] = []

    def in_pool(group: Sequence[Unit]) -> list[Unit]:
        """Measures them; returns those that were lost with a worker."""
        with ProcessPoolExecutor(
            min(clock.width, len(group)), mp_context=spawn, initializer=_begin, initargs=(queue,)
        ) as pool:
            running = {pool.submit(_measure_there, study, unit, settings): unit for unit in group}
            try:
                return _collect(running, failed, clock=clock, say=say)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    try:
        if lost := in_pool(units):
            say(f"{clock} a worker process died (of memory?); {len(lost)} units go on in new ones")
            lost.sort(key=units.index)  # the first in line were being measured
            groups = [lost[clock.width :], *([unit] for unit in lost[: clock.width])]
            for unit in [unit for group in groups if group for unit in in_pool(group)]:
                failed.append((unit, RuntimeError("a worker process died (of memory?); run again with fewer workers")))
                clock.failed(str(unit))
    finally:
        queue.put(None)
        listener.join()
    return failed


def _collect(
    running: dict[Future[float], Unit], failed: list[tuple[Unit, BaseException]], *, clock: Clock, say: Say
) -> list[Unit]:
    """Returns the units that were lost with a worker."""
    lost = []
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            unit, error = running.pop(future), future.exception()
            if error is None:
                clock.done(str(unit), future.result())
                say(f"{clock} {unit}: done in {future.result():.0f} s")
            elif isinstance(error, BrokenProcessPool):
                clock.stopped(str(unit))
                lost.append(unit)
            else:
                clock.failed(str(unit))
                failed.append((unit, error))
                say(f"{clock} {unit}: failed: {error}")
    return lost


_QUEUE: SimpleQueue[tuple[str, str, float] | None]


def _begin(queue: SimpleQueue[tuple[str, str, float] | None]) -> None:
    """In a worker, once."""
    global _QUEUE
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():  # it died while this process was starting
        os._exit(1)
    _QUEUE = queue


def _measure_there(study: Study, unit: Unit, settings: Settings) -> float:
    """In a worker."""
    return measure(study, unit, settings=settings, progress=lambda line, share: _QUEUE.put((str(unit), line, share)))


def _listen(queue: SimpleQueue[tuple[str, str, float] | None], clock: Clock, say: Say) -> None:
    while (told := queue.get()) is not None:
        unit, line, share = told
        clock.told(unit, share)
        say(f"{clock} {unit}: {line}")


def _cores() -> int:
    return len(os.sched_getaffinity(0))
