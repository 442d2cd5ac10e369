"""Is the newest promoted day as recent as the schedule promises? An alarm for each day that missed its deadline.

A day is due `promote_by` after its end. It asks the registry, not Airflow: a run that never began, one that waits for
a person and one that failed are late alike. A schedule that has ended is never late. Where consumers learn a version
before it serves, one that still waits when the day after the next is due raises an alarm too: they had a day to train.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from infra.settings import Settings
from snapshots.alerts.book import end_alerts, raise_alert, tell_again
from snapshots.alerts.kinds import FRESHNESS, MLFLOW_DOWN, NOT_LEARNT
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.tracking import TrackingUnavailableError

if TYPE_CHECKING:
    from trainer.recipe import Recipe, Schedule

log = logging.getLogger(__name__)

DAYS_TO_LEARN = 2
"""Consumers train on a version when the next day is promoted; when the one after that is due, they are late."""


@dataclass(frozen=True, kw_only=True)
class Unlearnt:
    """A promoted version that does not serve."""

    ds: date
    version: int
    waits_for: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """For the alert."""
        return f"version {self.version} of {self.ds} does not serve: {', '.join(self.waits_for)} did not learn it"


@dataclass(frozen=True, kw_only=True)
class Freshness(Summarised):
    """Of one model at one time."""

    model: str
    due: date | None
    """The newest day whose deadline has passed; None: the schedule promises none."""
    promoted: date | None
    """The newest promoted day."""
    days_behind: int
    """0: fresh."""
    unlearnt: Unlearnt | None = None
    """The oldest promoted version after the champion that should have been learnt by now, and was not."""

    @property
    def sentence(self) -> str:
        """For the alert."""
        if self.due is None:
            return f"{self.model}: the schedule promises no day now"
        newest = f"the newest promoted day is {self.promoted}" if self.promoted else "no day was ever promoted"
        state = f"{self.days_behind} days behind" if self.days_behind else "in time"
        return f"{self.model}: {self.due} was due; {newest}: {state}"


def check_freshness(recipe: Recipe, *, now: datetime, settings: Settings) -> Freshness:
    """Raise the alarm of the day that is due, once, or end those of days before; send what was not delivered.

    now: aware of its time zone. TrackingUnavailableError when MLflow is down, which is an alert of its own.
    """
    try:
        found = freshness(recipe, now=now, settings=settings)
    except TrackingUnavailableError as error:
        raise_alert(
            recipe.name,
            due_day(recipe.schedule, now) or now.date(),
            kind=MLFLOW_DOWN,
            severity="critical",
            reasons=(str(error),),
            settings=settings,
        )
        raise
    today = now.astimezone(ZoneInfo(recipe.schedule.timezone)).date()
    end_alerts(recipe.name, {MLFLOW_DOWN}, until=today, note="MLflow answers", settings=settings)
    if found.days_behind and found.due is not None:
        raise_alert(
            recipe.name, found.due, kind=FRESHNESS, severity="critical", reasons=(found.sentence,), settings=settings
        )
    elif found.promoted is not None:
        end_alerts(recipe.name, {FRESHNESS}, until=found.promoted, note=found.sentence, settings=settings)
    _tell_unlearnt(recipe, found, today, settings=settings)
    tell_again(recipe.name, settings=settings)
    log.info("freshness %s", found.sentence)
    return found


def _tell_unlearnt(recipe: Recipe, found: Freshness, today: date, *, settings: Settings) -> None:
    """One alarm at a time: who learns late learns several versions at once."""
    late = found.unlearnt
    until = today if late is None else late.ds - timedelta(days=1)
    end_alerts(recipe.name, {NOT_LEARNT}, until=until, note="waits no more", settings=settings)
    if late is not None:
        raise_alert(
            recipe.name, late.ds, kind=NOT_LEARNT, severity="warning", reasons=(late.sentence,), settings=settings,
            version=late.version,
        )  # fmt: skip


def freshness(recipe: Recipe, *, now: datetime, settings: Settings) -> Freshness:
    """What is due and what there is; nothing is written."""
    due = due_day(recipe.schedule, now)
    registry = Registry(settings)
    promoted = registry.promoted(recipe.name, before=date.max)
    newest = promoted[0].ds if promoted else None
    behind = 0
    if due is not None:
        behind = max((due - (newest or recipe.schedule.start - timedelta(days=1))).days, 0)
    return Freshness(
        model=recipe.name, due=due, promoted=newest, days_behind=behind, unlearnt=_unlearnt(registry, promoted, due)
    )  # fmt: skip


def _unlearnt(registry: Registry, promoted: Sequence[Version], due: date | None) -> Unlearnt | None:
    """promoted: newest first. The newest cannot be learnt yet; what waits behind the champion holds nothing back."""
    waiting = [version for version in promoted[1:] if version.waits_for]
    if due is None or not waiting:
        return None
    champion = registry.alias(waiting[0].model, "champion")
    served = date.min if champion is None else champion.ds
    late = [version for version in waiting if served <= version.ds and (due - version.ds).days >= DAYS_TO_LEARN]
    return Unlearnt(ds=late[-1].ds, version=late[-1].number, waits_for=late[-1].waits_for) if late else None


def due_day(schedule: Schedule, now: datetime) -> date | None:
    """The newest day of the schedule whose deadline has passed at `now`; None before the first and after the last."""
    due = (now - schedule.promote_by).astimezone(ZoneInfo(schedule.timezone)).date() - timedelta(days=1)
    return due if schedule.start <= due and (schedule.end is None or due <= schedule.end) else None
