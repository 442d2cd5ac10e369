"""What a scenario is given and what it tells. One function per fault: `tests.faults.catalogue` lists them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.world import World


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of one scenario. `seed` decides what is hit, where and when."""

    world: World
    folder: Path
    """Empty, and the scenario's own."""
    seed: int
    quick: bool
    """A few injections in place of all."""

    def draw(self) -> random.Random:
        """A new generator of the seed."""
        return random.Random(self.seed)  # noqa: S311

    def times(self, quick: int, thorough: int) -> int:
        """How often to inject."""
        return quick if self.quick else thorough


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the injected faults."""

    injected: int
    broken: tuple[str, ...] = ()
    """One line for each whose promise did not hold."""
    lost: str = "nothing"
    """What the fault cost, for a person."""
    seconds: float = 0.0
    skipped: str = ""
    """Why this machine cannot play it, and what would help."""

    @property
    def survived(self) -> int:
        """Faults whose promise held."""
        return max(self.injected - len(self.broken), 0)


class SkippedError(Exception):
    """This machine lacks what the scenario needs: a program, a right, the network."""


Scenario = Callable[[Trial], Outcome]
"""The first line of its docstring is the promise. An AssertionError is a broken one."""


def promise_of(scenario: Scenario) -> str:
    """The promise, in a line."""
    return (scenario.__doc__ or "").strip().splitlines()[0]


def play(scenario: Scenario, trial: Trial) -> Outcome:
    """Run it; whatever it raises is a broken promise."""
    began = time.monotonic()
    try:
        found = scenario(trial)
    except SkippedError as error:
        found = Outcome(injected=0, lost=f"skipped: {error}", skipped=str(error))
    except Exception as error:
        message = " ".join(str(error).split()) or "no message"
        found = Outcome(injected=1, broken=(f"{type(error).__name__}: {message[:600]}",), lost="unknown")
    return replace(found, seconds=round(time.monotonic() - began, 1))


def error_of(action: Callable[[], object], expected: type[Exception] = Exception) -> str:
    """What it fails with; AssertionError where it ends well."""
    try:
        action()
    except expected as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it ended well")
