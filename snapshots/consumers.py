"""The retraining of what consumes the embeddings, by what the registry says is promoted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

from features.lake import Partition
from infra.settings import Settings
from snapshots.registry import Registry, Version
from snapshots.runs import log_inputs
from trainer.downstream.checkpoint import Checkpoints
from trainer.downstream.day import DownstreamDay
from trainer.downstream.joined import NoEmbeddingsError
from trainer.downstream.retrain import retrain_on
from trainer.downstream.tracking import Joined, log_day, registered_name
from trainer.recipe import DownstreamRecipe, Recipe

log = logging.getLogger(__name__)


def waits_for(downstream: DownstreamRecipe, ds: date, *, settings: Settings) -> tuple[str, ...]:
    """The user models that have not promoted the day; none for a day that the consumer has trained before.

    Every promotion of one of them asks again, so the last one starts the day, and a rollback of one alone reaches the
    days that had learnt from it.
    """
    if any(day.ds == ds for day in Checkpoints(settings, downstream.name).days()):
        return ()
    registry = Registry(settings)
    return tuple(name for name in downstream.upstreams if not _has_promoted(registry, name, ds))


def _has_promoted(registry: Registry, model: str, ds: date) -> bool:
    promoted = registry.promoted(model, before=ds + timedelta(days=1))
    return any(version.ds == ds and version.visible is not None for version in promoted)


def retrain_consumer(
    downstream: DownstreamRecipe, upstreams: tuple[Recipe, ...], ds: date, *, settings: Settings
) -> DownstreamDay:
    """Retrain on the day with the embeddings promoted before it, and log it with the versions that they are of.

    First every earlier day that had learnt from embeddings that are promoted no more, and the days that go on from it:
    after a rollback the days of a consumer are told in no certain order. NoEmbeddingsError: nothing to join.
    """
    registry = Registry(settings)
    versions = {name: registry.promoted(name, before=ds) for name in downstream.upstreams}
    promoted = {name: [v.visible for v in found if v.visible is not None] for name, found in versions.items()}
    days = Checkpoints(settings, downstream.name).days()
    for earlier in misled(days, promoted, before=ds):
        log.warning("downstream again model=%s ds=%s: what it had joined is withdrawn", downstream.name, earlier)
        try:
            again = retrain_on(downstream, upstreams, earlier, settings=settings, promoted=promoted)
        except NoEmbeddingsError as nothing:
            log.warning("downstream stays model=%s ds=%s: %s", downstream.name, earlier, nothing)
        else:
            _log(again, versions, registry)
    trained = retrain_on(downstream, upstreams, ds, settings=settings, promoted=promoted)
    _log(trained, versions, registry)
    return trained


def misled(
    days: Sequence[DownstreamDay], promoted: Mapping[str, Sequence[Partition]], *, before: date
) -> tuple[date, ...]:
    """The trained days before `before`, oldest first, from the first one on that joined what is promoted no more.

    days: every revision, oldest first.
    """
    visible = {partition.content for partitions in promoted.values() for partition in partitions}
    newest = {day.ds: day for day in days if day.ds < before}
    wrong = [
        ds for ds, day in newest.items() if not visible.issuperset(partition.content for partition in day.embeddings)
    ]
    return tuple(sorted(ds for ds in newest if wrong and ds >= min(wrong)))


def _log(day: DownstreamDay, versions: Mapping[str, Sequence[Version]], registry: Registry) -> None:
    number = log_day(
        day, settings=registry.settings, joined=tuple(joined_by(day, (v for of in versions.values() for v in of)))
    )
    version = registry.client.get_model_version(registered_name(day.model), str(number))
    log_inputs(registry, str(version.run_id), [day.examples, *day.embeddings])


def joined_by(day: DownstreamDay, versions: Iterable[Version]) -> list[Joined]:
    """The user models' versions whose embeddings the day could join, in the order of its partitions."""
    known = {version.visible.content: version for version in versions if version.visible is not None}
    found = ((partition, known.get(partition.content)) for partition in day.embeddings)
    return [
        Joined(model=version.model, version=version.number, run_id=version.run_id, partition=partition)
        for partition, version in found
        if version is not None
    ]
