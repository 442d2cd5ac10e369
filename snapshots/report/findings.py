"""All that a day's report says, read once from the registry and the lake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from features.lake import Lake
from infra.settings import Settings
from snapshots.diagnosis import Cause, diagnose
from snapshots.gate import Decision, gate
from snapshots.judgement.usual import Usual
from snapshots.registry import Registry, Version, partition_from
from snapshots.report.usual import usual_of
from snapshots.runs import Links, links_of
from snapshots.shift.rows import ShiftRow, read_rows
from trainer.recipes import consumers_of

if TYPE_CHECKING:
    from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PastDay:
    """A version of one of the days before, and its shift."""

    version: Version
    rows: tuple[ShiftRow, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of the day when it is judged."""

    recipe: Recipe
    version: Version
    decision: Decision
    champion: Version | None
    previous_champion: Version | None
    """What a rollback makes the champion."""
    parent: Version | None
    previous: Version | None
    """The last promoted day before this one: what its shift is measured against."""
    visible: Version | None
    """The newest promoted day of all: what consumers read now."""
    rows: Sequence[ShiftRow]
    past: Sequence[PastDay]
    """The newest version of each of the days that the gate looks back on, oldest first."""
    consumers: Sequence[str]
    """The downstream models that retrain when a day is promoted."""
    links: Links
    causes: Sequence[Cause] = ()
    """What probably is the matter, most probable first; none on a quiet day."""

    @property
    def ds(self) -> date:
        """The day."""
        return self.version.ds

    def usual(self) -> dict[str, Usual]:
        """Of the shift, by the row's name."""
        return usual_of((row.name, row.value) for day in self._promoted for row in day.rows)

    def usual_ne(self) -> dict[str, Usual]:
        """Of the NE, by task."""
        of_days = (day.version.metrics for day in self._promoted)
        return usual_of((task, of.get("ne")) for metrics in of_days for task, of in metrics.items())

    @property
    def _promoted(self) -> list[PastDay]:
        return [day for day in self.past if day.version.decision == "promoted"]


def find(recipe: Recipe, ds: date, *, settings: Settings) -> Findings:
    """Gather what the report says. ValueError names the step that has not run."""
    registry, lake = Registry(settings), Lake(settings.lake)
    decision = gate(recipe, ds, settings=settings)
    version = registry.get(recipe.name, ds)
    shift = partition_from(version.tags, "shift", ds)
    newest = {known.ds: known for known in registry.versions(recipe.name)}
    promoted = registry.promoted(recipe.name, before=date.max)
    rows = read_rows(lake, shift) if shift else ()
    first = ds - timedelta(days=recipe.gate.trailing_days)
    past = tuple(_past([of for day, of in sorted(newest.items()) if first <= day < ds], lake))
    before = (row for day in past if day.version.decision == "promoted" for row in day.rows)
    return Findings(
        recipe=recipe,
        version=version,
        decision=decision,
        champion=registry.alias(recipe.name, "champion"),
        previous_champion=registry.alias(recipe.name, "previous"),
        parent=None if version.parent is None else registry.number(recipe.name, version.parent),
        previous=next((known for known in promoted if known.ds < ds), None),
        visible=next(iter(promoted), None),
        rows=rows,
        past=past,
        consumers=consumers_of(recipe.name),
        links=links_of(registry, version),
        causes=diagnose(rows, before, alarmed=decision.verdict != "promote"),
    )


def _past(versions: Sequence[Version], lake: Lake) -> Iterator[PastDay]:
    for version in versions:
        shift = partition_from(version.tags, "shift", version.ds)
        yield PastDay(version=version, rows=read_rows(lake, shift) if shift else ())
