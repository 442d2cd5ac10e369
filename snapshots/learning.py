"""Which consumers have learnt which version: option 1 of section 5.2 of the paper.

A consumer has learnt a version when a sealed day of it, registered in MLflow, joined the version's embeddings. What is
found stays with the version as tags: `learnt`, which day and which version of each consumer did, and `waits_for`, who
did not. The registry refuses the alias `champion` to a version that waits, and nothing else of it is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from features.lake import Partition
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.recipes import consumers_of

if TYPE_CHECKING:
    from trainer.downstream.day import DownstreamDay
    from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The first day on which a consumer learnt from a version."""

    consumer: str
    ds: date
    version: int
    """Of the registered model `downstream.<consumer>`."""

    def __str__(self) -> str:
        return f"{self.consumer}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Learning(Summarised):
    """Who has learnt one version, and who it waits for."""

    model: str
    ds: date
    version: int
    learnt: tuple[Lesson, ...]
    waits_for: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """As the registry keeps it."""
        return {"waits_for": " ".join(self.waits_for), "learnt": " ".join(map(str, self.learnt))}

    @property
    def sentence(self) -> str:
        """For people."""
        of = f"version {self.version} of {self.ds}"
        return f"{of} waits for {', '.join(self.waits_for)} to learn it" if self.waits_for else f"{of} is learnt"


Taught = Mapping[str, "Sequence[tuple[DownstreamDay, int]]"]
"""By consumer: its sealed and registered days, the last revision of each, oldest first, with their version numbers."""


def taught(recipe: Recipe, registry: Registry) -> Taught:
    """What the consumers of the model have learnt; nothing where it serves without that."""
    if recipe.serving.after == "promotion":
        return {}
    return {name: list(_days(name, registry)) for name in consumers_of(recipe.name)}


def learning(version: Version, taught: Taught) -> Learning:
    """Who has learnt the version, which is visible."""
    embeddings = version.visible
    assert embeddings is not None, f"{version.described()} is not visible to any consumer"
    learnt = tuple(
        lesson for name, days in taught.items() if (lesson := _first_lesson(name, days, embeddings)) is not None
    )
    known = {lesson.consumer for lesson in learnt}
    return Learning(
        model=version.model,
        ds=version.ds,
        version=version.number,
        learnt=learnt,
        waits_for=tuple(name for name in taught if name not in known),
    )


def order(version: Version) -> tuple[date, int]:
    """Of what is newer: by day, and among the versions of a day by number."""
    return version.ds, version.number


def learning_first(versions: Sequence[Version]) -> list[Version]:
    """What consumers learn before it serves, or have learnt, newest first; not what was rejected and is gone."""
    found = (one for one in versions if one.waits_for or (one.decision == "promoted" and "waits_for" in one.tags))
    return sorted(found, key=order, reverse=True)


def waiting(versions: Sequence[Version]) -> list[Version]:
    """Those that wait to be learnt, newest first; also what was rejected meanwhile, as long as it is still visible."""
    return sorted((version for version in versions if version.waits_for), key=order, reverse=True)


def _days(consumer: str, registry: Registry) -> list[tuple[DownstreamDay, int]]:
    from trainer.downstream.checkpoint import Checkpoints  # torch: a promotion that waits for nobody needs none
    from trainer.downstream.tracking import registered

    numbers = registered(registry.client, consumer)
    newest = {day.ds: day for day in Checkpoints(registry.settings, consumer).days()}  # the last revision stays
    return [(day, numbers[day.fingerprint]) for day in newest.values() if day.fingerprint in numbers]


def _first_lesson(consumer: str, days: Sequence[tuple[DownstreamDay, int]], embeddings: Partition) -> Lesson | None:
    for day, number in days:
        if embeddings.content in [partition.content for partition in day.embeddings]:
            return Lesson(consumer=consumer, ds=day.ds, version=number)
    return None
