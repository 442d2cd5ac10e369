"""The chain of a downstream model's days: what each learnt from, which versions of the user models it joined, and what
they were worth; and the other way round, who learnt from a version."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from features.lake import Partition
from infra.settings import Settings
from snapshots.consumers import Content, content
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.scores import Comparison
from trainer.downstream.tracking import registered_name
from trainer.recipe import DownstreamRecipe
from trainer.recipes import consumers_of
from trainer.tracking import find_versions

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)


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
    known = {content(v.visible): v for v in versions if v.visible is not None}
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
                version=numbers.get(day.fingerprint),
            )
            for day in days
        ),
        registry=why,
    )


def learnt_from(model: str, number: int, *, settings: Settings) -> dict[str, tuple[date, ...]]:
    """The days of every downstream model that could join that version of the user model, by MLflow's tags."""
    client, found = Registry(settings).client, {}
    for name in consumers_of(model):
        versions = find_versions(
            client, registered_name(name), f"tags.`user_model.{model}.versions` LIKE '% {number} %'"
        )
        if versions:
            found[name] = tuple(sorted({date.fromisoformat(version.tags["ds"]) for version in versions}))
    return found


def _registered(downstream: DownstreamRecipe, settings: Settings) -> tuple[list[Version], dict[str, int], str | None]:
    """Every version of its user models, its own numbers by fingerprint; or nothing, and why."""
    from mlflow.exceptions import MlflowException

    registry = Registry(settings)
    try:
        own: Sequence[ModelVersion] = find_versions(registry.client, registered_name(downstream.name))
        versions = [version for name in downstream.upstreams for version in registry.versions(name)]
    except (OSError, MlflowException) as error:
        log.warning("lineage without versions model=%s: %s", downstream.name, error)
        return [], {}, str(error)
    return versions, {version.tags["fingerprint"]: int(version.version) for version in own}, None


def _visible(versions: Iterable[Version]) -> set[Content]:
    """What consumers may see: of every day the newest promoted version."""
    newest: dict[tuple[str, date], Version] = {}
    for version in sorted(versions, key=lambda version: version.number):
        if version.decision == "promoted" and version.visible is not None:
            newest[version.model, version.ds] = version
    return {content(v.visible) for v in newest.values() if v.visible is not None}


def _staleness(days: Sequence[DownstreamDay], versions: Iterable[Version]) -> dict[date, str]:
    """days: the newest revision of each, oldest first."""
    visible = _visible(versions)
    stale: dict[date, str] = {}
    for before, day in zip([None, *days], days, strict=False):
        gone = [partition for partition in day.embeddings if content(partition) not in visible]
        if gone:
            stale[day.ds] = f"it joined {gone[0].table} of {gone[0].ds}, which is promoted no more"
        elif before is not None and before.ds in stale:
            stale[day.ds] = f"its parent {day.parent_ds} is stale"
        elif before is not None and day.parent_fingerprint != before.fingerprint:  # `before` was trained later, or anew
            stale[day.ds] = f"its parent is another training of {day.parent_ds}; {before.ds} is trained now"
    return stale


def _joined(
    day: DownstreamDay, known: Mapping[Content, Version], visible: set[Content]
) -> dict[str, tuple[JoinedDay, ...]]:
    return {
        model: tuple(
            JoinedDay(
                ds=partition.ds,
                version=known[content(partition)].number if content(partition) in known else None,
                withdrawn=bool(known) and content(partition) not in visible,
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
        version=version,
    )
