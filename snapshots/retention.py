"""Which snapshots and candidate embeddings may go: old ones that nothing points to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from features.fingerprint import fingerprint
from features.lake import Lake
from features.sweep import Swept, sweep
from infra.settings import Settings
from snapshots.embeddings import candidates_table_of, table_of
from snapshots.lock import model_lock
from snapshots.pooling import LOOKBACK_DAYS
from snapshots.registry import Registry, Version
from snapshots.summary import Summarised
from trainer.archive.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

IN_FLIGHT = timedelta(days=1)
"""A file younger than this may belong to a commit that is under way."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A version that stays, and what points to it."""

    number: int
    ds: date
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pruned(Summarised):
    """What went (or would, in a dry run) and what stays."""

    model: str
    dry_run: bool
    removed: tuple[int, ...]
    """Numbers of the versions whose snapshot and candidate embeddings went."""
    swept: tuple[Swept, ...]
    kept: tuple[Kept, ...]


def pointers(versions: Sequence[Version], aliases: Mapping[str, int], *, keep_days: int) -> dict[int, tuple[str, ...]]:
    """By number, why each version that stays does: it is of one of the newest `keep_days` days of data, an alias names
    it, nobody has decided it, it waits to be learnt before it serves, or a version that stays was trained from it (its
    shift is measured against that one)."""
    newest = max((version.ds for version in versions), default=date.min)
    served = max((version.ds for version in versions if version.number == aliases.get("champion")), default=date.min)
    why: dict[int, list[str]] = {}
    for version in versions:
        reasons = [f"alias {alias}" for alias, number in sorted(aliases.items()) if number == version.number]
        if (newest - version.ds).days < keep_days:
            reasons.append(f"of the newest {keep_days} days")
        if version.decision in ("pending", "held"):
            reasons.append(f"{version.decision}: not decided")
        if version.decision == "promoted" and version.waits_for and version.ds >= served:
            reasons.append(f"promoted: waits for {', '.join(version.waits_for)} to learn it")
        if reasons:
            why[version.number] = reasons
    for version in [version for version in versions if version.number in why]:
        if version.parent is not None:
            why.setdefault(version.parent, []).append(f"parent of version {version.number}")
    return {number: tuple(reasons) for number, reasons in why.items()}


def prune(recipe: Recipe, *, settings: Settings, keep_days: int, dry_run: bool = False) -> Pruned:
    """Delete the sealed folders and the candidate embeddings of versions that nothing points to, and files of both
    embedding tables that no version reads. The registry, and what consumers see, stay as they are.

    ValueError for fewer days than pooling and consumers look back.
    """
    if keep_days < LOOKBACK_DAYS:
        raise ValueError(f"keep_days is {keep_days}; pooling and consumers look back {LOOKBACK_DAYS} days: keep those")
    registry, lake = Registry(settings), Lake(settings.lake)
    with model_lock(settings, recipe.name) as check:
        versions = registry.versions(recipe.name)
        why = pointers(versions, _pointing(recipe, registry), keep_days=keep_days)
        gone = [version for version in versions if version.number not in why and "pruned" not in version.tags]
        check()
        for version in [] if dry_run else gone:
            _remove(version, registry, lake)
        seen = [part for v in versions for part in (v.visible, v.embeddings if v.number in why else None) if part]
        if (archive := Archive.of(settings)) is not None and not dry_run:
            archive.clear_leftovers(settings.artifacts / recipe.name)
        before = datetime.now(UTC) - IN_FLIGHT  # of files, for people's disks; nothing is computed from it
        swept = tuple(
            sweep(lake, table, keep=seen, before=before, dry_run=dry_run)
            for table in (candidates_table_of(recipe.name), table_of(recipe.name))
        )
    return Pruned(
        model=recipe.name,
        dry_run=dry_run,
        removed=tuple(version.number for version in gone),
        swept=swept,
        kept=tuple(_kept(versions, why)),
    )


def _pointing(recipe: Recipe, registry: Registry) -> dict[str, int]:
    """The registry's aliases, and what is served frozen."""
    served = registry.frozen(recipe.name, recipe.serving.frozen_day) if recipe.serving.mode == "frozen" else None
    return {**registry.aliases(recipe.name), **({} if served is None else {"served, frozen": served.number})}


def _kept(versions: Sequence[Version], why: Mapping[int, tuple[str, ...]]) -> Iterator[Kept]:
    for version in versions:
        if version.number in why:
            yield Kept(number=version.number, ds=version.ds, why=why[version.number])


def _remove(version: Version, registry: Registry, lake: Lake) -> None:
    """The tag first: whoever asks for a snapshot that is half gone is told why."""
    registry.tag(version, {"pruned": "by retention"})
    if version.path.exists():
        version.path.chmod(0o755)
        shutil.rmtree(version.path)
    archive = Archive.of(registry.settings)
    if archive is not None and "://" in version.reference:
        archive.remove(version.path)
    table = candidates_table_of(version.model)
    found = lake.find(table, version.ds)
    if found is not None and found.fingerprint == version.tags.get("embeddings.fingerprint"):
        lake.clear(table, version.ds, fingerprint=fingerprint("pruned", version.model, version.number))
    log.info("pruned %s path=%s", version.described(), version.path)
