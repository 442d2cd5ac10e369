"""The champion moves to what its consumers have learnt, where a recipe says `Serving(after="learning")`.

A promotion makes a day visible, so that consumers train on it; a release makes it serve. It is called whenever a
consumer has trained, changes nothing where nothing is new, and is finished by the next one when it was killed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from infra.settings import Settings
from snapshots.learning import Learning, learning, order, taught, waiting
from snapshots.lock import model_lock
from snapshots.promotion import point_at_previous, require_whole
from snapshots.registry import Registry, Version
from snapshots.seal import DamagedError
from snapshots.summary import Summarised

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Released(Summarised):
    """What serves now, and what still waits."""

    model: str
    champion: int | None
    ds: date | None
    """Of the champion."""
    released: tuple[int, ...]
    """Versions that every consumer has learnt since the last time."""
    waiting: tuple[Learning, ...]
    """Newest first."""
    partitions: tuple[date, ...]
    """The days that are told to what loads them."""

    @property
    def sentence(self) -> str:
        """For people."""
        serves = "nothing serves yet" if self.champion is None else f"version {self.champion} of {self.ds} serves"
        return "; ".join([f"{self.model}: {serves}", *(one.sentence for one in self.waiting)])


def release(recipe: Recipe, *, settings: Settings) -> Released:
    """Let what every consumer has learnt serve: the newest such version becomes the champion.

    DamagedError, after that: a sealed file of such a version is damaged; it waits on, and the on-call is told.
    ValueError: a rollback was cut short.
    """
    registry = Registry(settings)
    with model_lock(settings, recipe.name) as check:
        champion = registry.alias(recipe.name, "champion")
        if champion is not None and champion.decision == "rejected":
            raise ValueError(
                f"a rollback from {champion.described()} was cut short; nothing serves instead of it before "
                f"`usermodel snapshots rollback --recipe {recipe.name}` has ended"
            )
        check()
        learnt, still, damaged = _learn(recipe, registry, champion)
        ready = [one for one in registry.versions(recipe.name) if one.may_serve and "waits_for" in one.tags]
        newest = max(ready, key=order, default=None)
        if newest is not None and (champion is None or order(champion) < order(newest)):
            point_at_previous(registry, newest)
            registry.set_alias(recipe.name, "champion", newest.number)
            champion = newest
        elif champion is not None and learnt:
            point_at_previous(registry, champion)  # an older day may be what a rollback goes back to
    released = Released(
        model=recipe.name,
        champion=None if champion is None else champion.number,
        ds=None if champion is None else champion.ds,
        released=tuple(version.number for version in learnt),
        waiting=still,
        partitions=_news(learnt, champion, still),
    )
    log.info("released %s", released.sentence)
    if damaged:
        raise damaged[0]  # the newest; what is whole serves
    return released


def _learn(
    recipe: Recipe, registry: Registry, champion: Version | None
) -> tuple[tuple[Version, ...], tuple[Learning, ...], tuple[DamagedError, ...]]:
    """What need not wait any more, what still does, and what is damaged, newest first; the registry has been told."""
    lessons = taught(recipe, registry)
    learnt: list[Version] = []
    still: list[Learning] = []
    damaged: list[DamagedError] = []
    versions = registry.versions(recipe.name)
    newest = {one.ds: one.number for one in versions if one.decision == "promoted"}
    for version in waiting(versions):
        if newest.get(version.ds) != version.number:
            continue  # a rollback was cut short, or another version of the day is what consumers join
        found = learning(version, lessons)
        if found.waits_for:
            still.append(found)
        elif champion is None or order(champion) < order(version):
            try:
                require_whole(version, registry.settings)
            except DamagedError as error:
                damaged.append(error)
                continue
            learnt.append(version)
        else:
            learnt.append(version)  # an older one is loaded, and computes nothing
        registry.tag(version, found.tags)
    return tuple(learnt), tuple(still), tuple(damaged)


def _news(learnt: Sequence[Version], champion: Version | None, still: Sequence[Learning]) -> tuple[date, ...]:
    """The days to be loaded. The champion's again unless a version after it is learnt by some consumers and not by all,
    which is so until the last of a day has trained: what was killed before it told is told by the next."""
    if learnt:
        return tuple(sorted({version.ds for version in learnt}, reverse=True))
    if champion is None or "waits_for" not in champion.tags:
        return ()
    under_way = any(one.learnt for one in still if one.ds > champion.ds)
    return () if under_way else (champion.ds,)
