"""A day of a user model trained over the hosts of a rack while a fault befalls their network; what became of it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

from features.examples import build_examples
from features.sources.synthetic import SyntheticWorld
from infra.hosts.faults import Fault
from infra.hosts.job import HostsJob
from infra.hosts.rack import Rack
from infra.hosts.watch import Watch
from infra.hosts.weights import apart
from infra.settings import Settings
from trainer.job import train
from trainer.recipe import Recipe
from trainer.trained import TrainedDay, trained_days

_CHECKPOINT_SECONDS = 3.0
_CLAUSE = re.compile(r"(?:deadline|too long|another rank): (.+?)\. See that rank's host")
_PATIENCE_SECONDS = 120.0
"""With the undisturbed day: nothing is to be found there."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a day under a fault."""

    fault: str
    hosts: int
    failed_after_seconds: float | None
    """From the fault to the error that names it; None: the job survived."""
    message: str
    """That error; empty where there was none."""
    step: int
    """Of the fault."""
    resumed_at: int | None
    """Where the retry went on; None without one."""
    step_ms: float
    """Mean, of the first attempt's steps from the fault on."""
    seconds: float
    """Of all attempts."""
    apart: tuple[str, ...]
    """Tensors that differ from the undisturbed day's: none may."""
    published: int
    """Days that are there at the end, once the cut-off hosts came back: one."""

    @property
    def named(self) -> str:
        """The clause of the error that says for whom the rank waited."""
        found = _CLAUSE.search(self.message)
        return found.group(1) if found else self.message

    @property
    def broken(self) -> bool:
        """Whether something of what was promised does not hold."""
        return bool(self.apart) or self.published != 1

    @property
    def redone(self) -> int:
        """Steps that were learnt twice, at most."""
        return 0 if self.resumed_at is None else max(self.step - self.resumed_at, 0)


@dataclass(frozen=True, kw_only=True)
class Day:
    """What is trained: the first day of a recipe's world, some of its examples, a rank per host."""

    recipe: Recipe
    settings: Settings
    """Of the lake that the examples are in."""

    @classmethod
    def of(cls, recipe: Recipe, *, num_examples: int | None, settings: Settings) -> Day:
        """num_examples: of the synthetic world's day; None: all. ValueError: the recipe's log is a real one."""
        world = recipe.source
        if num_examples is not None:
            if not isinstance(world, SyntheticWorld):
                raise ValueError(f"{recipe.name} reads a real log, whose days are as long as they are")
            world = replace(world, name=f"{world.name}_{num_examples}", events_per_day=num_examples)
        made = cls(recipe=replace(recipe, source=world), settings=settings)
        build_examples(world, made.ds, settings=settings, reject_max_share=0.05)
        return made

    @property
    def ds(self) -> date:
        """The day."""
        return self.recipe.schedule.start

    def home(self, folder: Path, *, ranks: int, deadline_seconds: float) -> Settings:
        """An installation of its own under `folder`, with the lake of all."""
        return Settings(
            home=folder,
            lake_uri=self.settings.lake,
            ranks=ranks,
            device="cpu",
            deadline_seconds=deadline_seconds,
            checkpoint_seconds=_CHECKPOINT_SECONDS,
            _env_file=None,
        )


class Trial:
    """Trials at one day on the hosts of one rack; the undisturbed day is trained once, before the first."""

    def __init__(self, rack: Rack, day: Day, *, folder: Path, deadline_seconds: float) -> None:
        self._rack, self._day, self._folder = rack, day, folder
        self._deadline = deadline_seconds

    @cached_property
    def undisturbed(self) -> TrainedDay:
        """Over all hosts, with a quiet network."""
        settings = self._home("undisturbed").model_copy(update={"deadline_seconds": _PATIENCE_SECONDS})
        return self._train(settings, HostsJob(self._rack, hosts=self._rack.names, lost_seconds=_PATIENCE_SECONDS))

    def run(self, name: str, fault: Fault) -> Outcome:
        """Train under the fault, and again where it is too much for the job; leaves the network whole.

        RuntimeError: the job failed where it was to survive, or the retry did.
        """
        expected, settings, job = self.undisturbed, self._home(name), self._job(self._rack.names)
        message, failed, resumed_at = "", None, None
        began = time.monotonic()
        with Watch(fault, self._rack, job, waypoints=settings.checkpoints) as watch:
            try:
                trained = self._train(settings, job)
            except RuntimeError as error:
                if fault.retry == "none" or watch.injected_at is None:
                    raise
                failed, message = time.monotonic() - watch.injected_at, str(error)
                if fault.retry == "all":
                    watch.wait_until_healed()
                trained, resumed_at = self._retry(settings)
        if watch.injected_at is None:
            raise RuntimeError("the day ended before the fault befell; take more examples")
        seconds = time.monotonic() - began
        job.await_the_cut_off()
        return Outcome(
            fault=name,
            hosts=len(self._rack.names),
            failed_after_seconds=failed,
            message=message,
            step=watch.step,
            resumed_at=resumed_at,
            step_ms=watch.step_ms,
            seconds=seconds,
            apart=apart(expected.path, trained.path),
            published=len(trained_days(settings, self._day.recipe.name)),
        )

    def _retry(self, settings: Settings) -> tuple[TrainedDay, int]:
        """With as many ranks on the hosts that are there, and the step at which it went on."""
        there = [name for name in self._rack.names if not self._rack.is_cut(name)]
        while settings.ranks % len(there):
            there.pop()
        job = self._job(there)
        return self._train(settings, job), job.resumed_at

    def _job(self, hosts: Sequence[str]) -> HostsJob:
        return HostsJob(self._rack, hosts=hosts, lost_seconds=self._deadline)

    def _train(self, settings: Settings, job: HostsJob) -> TrainedDay:
        return train(self._day.recipe, self._day.ds, settings=settings, launch=job)

    def _home(self, name: str) -> Settings:
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return self._day.home(folder, ranks=len(self._rack.names), deadline_seconds=self._deadline)
