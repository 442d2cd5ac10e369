"""A study: what is measured of one seed, and what is concluded from all of them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from features.examples import build_examples
from features.fingerprint import file_sha256, fingerprint
from features.lake import Lake
from infra.experiments.finding import Finding
from infra.experiments.lab import Lab
from infra.experiments.sampling import keep_users
from infra.experiments.setting import Setting
from infra.experiments.towers import DailyTowers
from infra.settings import REPOSITORY, Settings
from snapshots.lock import model_lock
from trainer.recipe import Recipe

TRAINING = 0.8
"""The share of its time that a unit which trains user models spends on that; for the estimate of what is left."""

SOURCES = (
    "features",
    "trainer",
    "infra/experiments",
    "serving/replay",
    "serving/solaris",
    "snapshots/embeddings.py",
    "snapshots/movement.py",
    "snapshots/pooling.py",
)
"""What decides the values of units: a result of other code is not shown as this code's. Trained towers are kept by
configuration and data, for all studies and whatever the code."""

log = logging.getLogger(__name__)

Values = Mapping[str, Any]
"""What a unit gives: plain JSON, all numbers finite (None where there is none)."""
Results = Mapping[int, Mapping[str, Values]]
"""By seed and part."""
Progress = Callable[[str, float], None]
"""Told a line, and the share of the unit's work that is done."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment. Its functions are those of a module, so that worker processes find them."""

    name: str
    """Of its command, its folder and its experiment in MLflow."""
    measure: Callable[[Trial], Values]
    """One unit; depends on nothing but the unit."""
    conclude: Callable[[Setting, Results], Finding]
    parts: tuple[str, ...] = ("all",)
    """What is measured of every seed, each by itself, and in the order of importance."""

    def units(self, setting: Setting) -> list[Unit]:
        """Part by part, so that workers begin with different seeds."""
        return [
            Unit(study=self.name, setting=setting.of(seed), seed=seed, part=part)
            for part in self.parts
            for seed in setting.seeds
        ]


@cache
def sources() -> str:
    """SHA-256 (hex) of the code that decides what a unit gives."""
    files = sorted(path for one in SOURCES for path in [REPOSITORY / one, *(REPOSITORY / one).rglob("*.py")])
    return fingerprint([(str(path.relative_to(REPOSITORY)), file_sha256(path)) for path in files if path.is_file()])


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is measured at once, and kept."""

    study: str
    setting: Setting
    """Of this seed."""
    seed: int
    part: str
    code: str = field(default_factory=sources)
    """That measures it: constants and models are part of it, and it changes values."""

    def __str__(self) -> str:
        return f"{self.study} seed {self.seed}" + ("" if self.part == "all" else f" {self.part}")

    def file(self, home: Path) -> Path:
        """Where its values are kept."""
        return home / self.study / f"{self._name}-{self.code[:12]}.json"

    @property
    def _name(self) -> str:
        """Whatever the code."""
        return fingerprint(self.study, self.setting, self.seed, self.part)[:24]

    def kept(self, home: Path) -> tuple[Values, float] | None:
        """Its values and the seconds they took; None where it was not measured, or what is kept cannot be read."""
        path = self.file(home)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return document["values"], float(document["seconds"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s holds no measured unit (%s: %s); %s is missing", path, type(error).__name__, error, self)
            return None

    def kept_by_other_code(self, home: Path) -> bool:
        """Whether it was measured, but not by this code."""
        return any(path != self.file(home) for path in (home / self.study).glob(f"{self._name}-*.json"))

    def keep(self, values: Values, home: Path, *, seconds: float) -> None:
        """At once, or not at all. ValueError for what is not JSON, such as NaN."""
        path = self.file(home)
        head = {"unit": str(self), "setting": self.setting.name, "seconds": round(seconds, 3)}
        content = json.dumps({**head, "values": values}, allow_nan=False, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)

    def forget(self, home: Path) -> None:
        """Its values are measured anew."""
        self.file(home).unlink(missing_ok=True)


@dataclass(kw_only=True)
class Trial:
    """A unit being measured: the lab of its seed, which other units of the seed share on disk."""

    unit: Unit
    settings: Settings
    """Of the installation."""
    tell: Progress = lambda line, share: log.info("%s (%.0f %%)", line, 100 * share)
    _lab: Lab | None = field(default=None, init=False)
    _num_trained: int = field(default=0, init=False)
    """Days of any user model."""

    @property
    def setting(self) -> Setting:
        """Of this seed."""
        return self.unit.setting

    @property
    def seed(self) -> int:
        """Whose world and models these are."""
        return self.unit.seed

    def progress(self, line: str, share: float) -> None:
        """Say that so much of the measuring is done, training apart."""
        days = self.setting.num_days * len(self.setting.user_models)
        training = min(self._num_trained / days, 1.0)
        self.tell(line, TRAINING * training + (1 - TRAINING) * share if self._num_trained else share)

    def say(self, line: str) -> None:
        """Say what a day of training gave."""
        self._num_trained += 1
        self.progress(line, 0.0)

    @property
    def lab(self) -> Lab:
        """The days, built first where they are missing."""
        if self._lab is None:
            self._lab = open_lab(self.setting, self.settings, say=self.say)
        return self._lab

    def towers(self, recipe: Recipe) -> DailyTowers:
        """`Lab.towers`."""
        return self.lab.towers(recipe)

    def models(self) -> dict[str, DailyTowers]:
        """The setting's user models by role, trained."""
        return {role: self.towers(recipe) for role, recipe in self.setting.user_models.items()}


def home_of(settings: Settings) -> Path:
    """Where experiments keep what they make."""
    return settings.home / "experiments"


def open_lab(setting: Setting, settings: Settings, *, say: Callable[[str], None]) -> Lab:
    """Of a setting of one seed. Real days are built in the installation's lake, which may have them; worlds in one of
    their own."""
    home = home_of(settings)
    with model_lock(settings, f"experiments-{setting.source.name}-{setting.one_of}"):
        of_worlds = settings.model_copy(update={"home": home, "lake_uri": None})
        lake_of = settings if setting.name == "globo" else of_worlds
        for ds in setting.days:  # each time: nothing is written where log and source are as they were
            build_examples(setting.source, ds, settings=lake_of, reject_max_share=0.05)
        if setting.one_of > 1:
            lake_of = keep_users(setting.source, setting.days, settings=lake_of, home=home, one_of=setting.one_of)
        return Lab.open(
            setting.source,
            setting.days,
            lake=Lake(lake_of.lake),
            folder=home / ("towers" if setting.one_of == 1 else f"towers_one_of_{setting.one_of}"),
            say=say,
        )


def by_seed(results: Results, value: Callable[[Mapping[str, Values]], float]) -> Sequence[float]:
    """A number of every seed, in the order of the seeds."""
    return [value(results[seed]) for seed in sorted(results)]
