"""The chain of a model's days: what each was trained from, what it became, and what no longer follows from it.

A day is stale when training it now would begin from other weights: its parent was trained anew (late data, another
recipe), a missing day before it was trained later, or its parent is stale itself. It is late when the lake holds
other examples of the day than it has learnt. Neither is repaired by itself: a sealed day stays what it is, and
`usermodel trainer train` makes a new revision of it, oldest day first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from features.lake import Lake, Partition
from features.selection import Selection
from infra.settings import Settings
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.carryover.summary import CarriedOver
from trainer.trained import TrainedDay, revisions

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Where MLflow has the day's snapshot."""

    number: int
    decision: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Link:
    """One training of one day. The `why` fields are sentences; None where there is nothing to say."""

    ds: date
    revision: int
    fingerprint: str
    parent_ds: date | None
    parent_fingerprint: str | None
    gap_days: int
    """Days before it that nothing was learnt from."""
    examples: Partition
    where: tuple[Selection, ...]
    """It learnt those that every one of these selects."""
    num_examples: int
    ranks: int
    path: Path
    carried_over: str | None
    """The warm start in one line; None after a cold start."""
    changes: tuple[str, ...]
    """What of the model, or of what it learnt from, was not simply the parent's, and why."""
    stored: str
    """`full (why)`, or `increment of ds=…`."""
    superseded: bool
    """A later revision is the day's model."""
    stale: str | None
    late: str | None
    registered: Registered | None


@dataclass(frozen=True, kw_only=True)
class MissingDay:
    """A day between the first and the last that is not trained."""

    ds: date
    has_examples: bool


@dataclass(frozen=True, kw_only=True)
class Lineage(Summarised):
    """Every training that is kept, oldest day first, and what lies between them."""

    model: str
    links: tuple[Link, ...]
    missing: tuple[MissingDay, ...]
    registry: str | None
    """Why there is nothing from MLflow; None when it answered."""


def lineage(model: str, examples_table: str, *, settings: Settings) -> Lineage:
    """The chain of `model`. ValueError when no day of it is trained. Without MLflow it has no versions."""
    trained = revisions(settings, model)
    if not trained:
        raise ValueError(
            f"{model} has no trained day under {settings.checkpoints}; "
            f"run `usermodel trainer train --recipe {model} --ds D` first"
        )
    newest = {day.ds: day for day in trained}  # oldest revision first: the last one stays
    calendar = _calendar(min(newest), max(newest))
    found = Lake(settings.lake).find_all(examples_table, calendar)
    stale = staleness(list(newest.values()))
    versions, why = _registered(model, settings)
    return Lineage(
        model=model,
        links=tuple(
            _link(day, current=newest[day.ds], stale=stale, now=found.get(day.ds), version=versions.get(_key(day)))
            for day in trained
        ),
        missing=tuple(MissingDay(ds=ds, has_examples=ds in found) for ds in calendar if ds not in newest),
        registry=why,
    )


def staleness(days: Sequence[TrainedDay]) -> dict[date, str]:
    """Why each stale day is stale. days: the newest revision of each, oldest first."""
    stale: dict[date, str] = {}
    before: TrainedDay | None = None
    for day in days:
        why = _why_stale(day, before)
        if why is None and before is not None and before.ds in stale:
            why = f"its parent {before.ds} is stale"
        if why is not None:
            stale[day.ds] = why
        before = day
    return stale


def _why_stale(day: TrainedDay, before: TrainedDay | None) -> str | None:
    """before: the trained day before it, which it would begin from now."""
    if before is None or day.parent_fingerprint == before.fingerprint:
        return None
    if day.parent_ds is None:
        return f"a cold start, and {before.ds} is trained now"
    if day.parent_ds == before.ds:
        return f"its parent {before.ds} was trained anew (revision {before.revision})"
    return f"its parent is {day.parent_ds}, and {before.ds} is trained now"


def _link(
    day: TrainedDay,
    *,
    current: TrainedDay,
    stale: Mapping[date, str],
    now: Partition | None,
    version: Registered | None,
) -> Link:
    superseded = current.fingerprint != day.fingerprint
    carried = day.carried_over
    return Link(
        ds=day.ds,
        revision=day.revision,
        fingerprint=day.fingerprint,
        parent_ds=day.parent_ds,
        parent_fingerprint=day.parent_fingerprint,
        gap_days=day.gap_days,
        examples=day.examples,
        where=day.where,
        num_examples=day.num_examples,
        ranks=day.ranks,
        path=day.path,
        carried_over=None if carried is None else carried.sentence,
        changes=() if carried is None else _changes(carried),
        stored="full" if day.stored is None else day.stored.sentence,
        superseded=superseded,
        stale=None if superseded else stale.get(day.ds),
        late=None if superseded else _why_late(day, now),
        registered=version,
    )


def _changes(carried: CarriedOver) -> tuple[str, ...]:
    changes = (change.sentence for change in carried.changes)
    return tuple(filter(None, (carried.other_examples, *changes)))


def _why_late(day: TrainedDay, now: Partition | None) -> str | None:
    if now is None:
        return "its examples are no longer in the lake"
    if now.fingerprint == day.examples.fingerprint:
        return None
    return f"the lake holds other examples of it since (was table version {day.examples.version})"


def _calendar(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def _key(day: TrainedDay | Version) -> tuple[date, str]:
    return day.ds, day.training if isinstance(day, Version) else day.fingerprint


def _registered(model: str, settings: Settings) -> tuple[dict[tuple[date, str], Registered], str | None]:
    """By (ds, training): what MLflow knows; or nothing, and why."""
    from mlflow.exceptions import MlflowException

    registry = Registry(settings)
    try:
        aliases = registry.aliases(model)
        versions = registry.versions(model)
    except (OSError, MlflowException) as error:
        log.warning("lineage without versions model=%s: %s", model, error)
        return {}, str(error)

    def named(number: int) -> Iterator[str]:
        return (alias for alias, of in sorted(aliases.items()) if of == number)

    return {
        _key(version): Registered(
            number=version.number, decision=version.decision, aliases=tuple(named(version.number))
        )
        for version in versions
    }, None
