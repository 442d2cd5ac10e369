"""The chain of a downstream model's days: what each learnt from, which versions of the user models it joined, and what
they were worth; and the other way round, who learnt from a version."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from features.lake import Partition
from infra.settings import Settings
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.scores import Comparison
from trainer.downstream.tracking import joined_versions, registered
from trainer.recipe import DownstreamRecipe
from trainer.recipes import consumers_of

log = logging.getLogger(__name__)

Content = tuple[str, date, str]
"""`Partition.content`."""


@dataclass(frozen=True, kw_only=True)
class JoinedDay:
    """A day of a user model that could be joined."""

    ds: date
    version: int | None
    """The number in the registry; None where it did not answer."""
    withdrawn: bool
    """It is promoted no more."""


@dataclass(frozen=True, kw_only=True)
class ConsumerLink:
    """One training of one day."""

    ds: date
    revision: int
    fingerprint: str
    parent_ds: date | None
    parent_fingerprint: str | None
    examples: Partition
    num_examples: int
    joined: dict[str, tuple[JoinedDay, ...]]
    """By user model, newest first."""
    scores: Comparison | None
    """On the day before it was learnt, without the embeddings and with; None on the first day."""
    superseded: bool
    """A later revision is the day's model."""
    stale: str | None
    """Why it no longer follows from what is promoted and trained, a sentence."""
    late: str | None
    """What was promoted too late for it, a sentence."""
    version: int | None
    """The downstream model's number in the registry."""


@dataclass(frozen=True, kw_only=True)
class ConsumerLineage(Summarised):
    """Every training that is kept, oldest day first."""

    model: str
    upstreams: tuple[str, ...]
    links: tuple[ConsumerLink, ...]
    registry: str | None
    """Why there is nothing from MLflow; None when it answered."""


def consumer_lineage(downstream: DownstreamRecipe, *, settings: Settings) -> ConsumerLineage:
    """The chain of the downstream model. ValueError when no day of it is trained. Without MLflow it has no versions."""
    days = Checkpoints(settings, downstream.name).days()
    if not days:
        raise ValueError(
            f"{downstream.name} has no trained day under {settings.checkpoints}; "
            f"run `usermodel trainer downstream --name {downstream.name} --ds D` first"
        )
    versions, numbers, why = _registered(downstream, settings)
    newest = {day.ds: day for day in days}
    stale = _staleness(list(newest.values()), versions) if why is None else {}
    known = {v.visible.content: v for v in versions if v.visible is not None}
    visible = _visible(versions)
    return ConsumerLineage(
        model=downstream.name,
        upstreams=downstream.upstreams,
        links=tuple(
            _link(
                day,
                joined=_joined(day, known, visible),
                superseded=newest[day.ds] is not day,
                stale=stale.get(day.ds),
                late=_why_late(downstream, day, visible),
                version=numbers.get(day.fingerprint),
            )
            for day in days
        ),
        registry=why,
    )


def learnt_from(model: str, *, settings: Settings) -> dict[int, dict[str, tuple[date, ...]]]:
    """By version of the user model: the days that each downstream model had it to join, by the tags in MLflow."""
    client = Registry(settings).client
    found: dict[int, dict[str, tuple[date, ...]]] = {}
    for name in consumers_of(model):
        for number, days in joined_versions(client, name, user_model=model).items():
            found.setdefault(number, {})[name] = days
    return found


def _registered(downstream: DownstreamRecipe, settings: Settings) -> tuple[list[Version], dict[str, int], str | None]:
    """Every version of its user models, its own numbers by fingerprint; or nothing, and why."""
    from mlflow.exceptions import MlflowException

    registry = Registry(settings)
    try:
        numbers = registered(registry.client, downstream.name)
        versions = [version for name in downstream.upstreams for version in registry.versions(name)]
    except (OSError, MlflowException) as error:
        log.warning("lineage without versions model=%s: %s", downstream.name, error)
        return [], {}, str(error)
    return versions, numbers, None


def _visible(versions: Iterable[Version]) -> set[Content]:
    """What consumers may see: of every day the newest promoted version."""
    newest: dict[tuple[str, date], Version] = {}
    for version in sorted(versions, key=lambda version: version.number):
        if version.decision == "promoted" and version.visible is not None:
            newest[version.model, version.ds] = version
    return {v.visible.content for v in newest.values() if v.visible is not None}


def _staleness(days: Sequence[DownstreamDay], versions: Iterable[Version]) -> dict[date, str]:
    """days: the newest revision of each, oldest first."""
    visible = _visible(versions)
    stale: dict[date, str] = {}
    for before, day in zip([None, *days], days, strict=False):
        gone = [partition for partition in day.embeddings if partition.content not in visible]
        if gone:
            stale[day.ds] = f"it joined {gone[0].table} of {gone[0].ds}, which is promoted no more"
        elif before is not None and before.ds in stale:
            stale[day.ds] = f"its parent {day.parent_ds} is stale"
        elif before is not None and day.parent_fingerprint != before.fingerprint:  # `before` was trained later, or anew
            stale[day.ds] = f"its parent is another training of {day.parent_ds}; {before.ds} is trained now"
    return stale


def _why_late(downstream: DownstreamRecipe, day: DownstreamDay, visible: set[Content]) -> str | None:
    joined = {(partition.table, partition.ds) for partition in day.embeddings}
    first = day.ds - timedelta(days=downstream.lookback_days)
    missed = sorted(
        {(table, ds) for table, ds, _ in visible if first <= ds < day.ds} - joined, key=lambda key: key[::-1]
    )
    return f"{missed[-1][0]} of {missed[-1][1]} is promoted since" if missed else None


def _joined(
    day: DownstreamDay, known: Mapping[Content, Version], visible: set[Content]
) -> dict[str, tuple[JoinedDay, ...]]:
    return {
        model: tuple(
            JoinedDay(
                ds=partition.ds,
                version=known[partition.content].number if partition.content in known else None,
                withdrawn=bool(known) and partition.content not in visible,
            )
            for partition in day.embeddings
            if partition.table == f"user_embeddings/{model}"
        )
        for model in day.upstreams
    }


def _link(
    day: DownstreamDay,
    *,
    joined: dict[str, tuple[JoinedDay, ...]],
    superseded: bool,
    stale: str | None,
    late: str | None,
    version: int | None,
) -> ConsumerLink:
    return ConsumerLink(
        ds=day.ds,
        revision=day.revision,
        fingerprint=day.fingerprint,
        parent_ds=day.parent_ds,
        parent_fingerprint=day.parent_fingerprint,
        examples=day.examples,
        num_examples=day.num_examples,
        joined=joined,
        scores=None if day.evaluation is None else day.evaluation.everyone,
        superseded=superseded,
        stale=None if superseded else stale,
        late=None if superseded else late,
        version=version,
    )
