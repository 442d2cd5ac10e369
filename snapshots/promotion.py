"""What becomes of a judged version: promote, hold, reject, roll back; each can be repeated.

A day's embeddings are visible to pooling and consumers exactly while its version's decision is `promoted`
(`snapshots.visibility`). The champion is what serves: the promoted version, or, where consumers learn it first
(`Serving.after`), what `snapshots.release` makes the champion when they have. The decision is recorded last on the way
up and first on the way down, so a promotion or a rollback that was killed is finished by running it again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from features.lake import Lake, Partition
from infra.settings import Settings
from snapshots.alerts.held import tell_damaged, tell_promoted, tell_rolled_back, tell_withheld
from snapshots.folder import on_disk
from snapshots.gate import BY_GATE, gate
from snapshots.learning import learning, learning_first, order, taught
from snapshots.lock import model_lock
from snapshots.registry import Registry, Version, partition_tags
from snapshots.report import write_report
from snapshots.seal import DamagedError, verify
from snapshots.summary import Summarised
from snapshots.visibility import show, withdraw

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Promotion(Summarised):
    """What consumers are told: whose embeddings of which day may be read, and where."""

    model: str
    ds: date
    version: int
    embeddings: Partition
    """Of the consumers' table."""
    by: str
    partitions: tuple[date, ...]
    """The days whose consumers are told: this one; after a rollback, also those that had learnt from what went."""


@dataclass(frozen=True, kw_only=True)
class TakenBack(Summarised):
    """A promoted day that is so no more, while the champion stays."""

    model: str
    ds: date
    version: int
    by: str
    partitions: tuple[date, ...]
    """The days whose consumers are told, as a promotion's."""


@dataclass(frozen=True, kw_only=True)
class Withheld(Summarised):
    """A version that consumers do not see, and why."""

    model: str
    ds: date
    version: int
    decision: Literal["held", "rejected"]
    reasons: tuple[str, ...]
    report: Path


def promote(
    recipe: Recipe, ds: date, *, settings: Settings, by: str, note: str = "", allow_older: bool = False
) -> Promotion:
    """Make the day's version the champion and its embeddings visible.

    Where consumers learn a version before it serves, the champion stays until then (`snapshots.release`).
    allow_older: make a day older than the champion's visible; the champion stays.
    ValueError: a sealed file is damaged, the embeddings are missing, the champion is of a later day, or the
    gate would overturn a person's decision.
    """
    registry, lake = Registry(settings), Lake(settings.lake)
    with model_lock(settings, recipe.name) as check:
        version = registry.get(recipe.name, ds)
        if version.decision == "promoted":
            log.info("promoted before model=%s ds=%s version=%d", recipe.name, ds, version.number)
            tell_promoted(version, settings=settings)
            return _promotion(version)
        _require_promotable(version, lake, by=by)
        require_whole(version, settings)
        champion = registry.alias(recipe.name, "champion")
        if champion is not None and champion.ds > ds and not allow_older:
            raise ValueError(
                f"{version.described()} is older than the champion, {champion.described()}; "
                "--allow-older makes its embeddings visible while the champion stays; or roll back first"
            )
        check()
        version = registry.tag(version, partition_tags("visible", show(version, lake)))
        if recipe.serving.after == "learning" or version.waits_for:
            version = registry.tag(version, learning(version, taught(recipe, registry)).tags)
        if version.waits_for:
            log.info("promoted, and serves later model=%s waits_for=%s", recipe.name, " ".join(version.waits_for))
        elif champion is None:
            registry.set_alias(recipe.name, "champion", version.number)
        elif champion.ds <= ds and champion.number != version.number:
            registry.set_alias(recipe.name, "previous", champion.number)
            registry.set_alias(recipe.name, "champion", version.number)
        version = registry.decide(version, "promoted", by=by, note=note)
        tell_promoted(version, settings=settings)
        return _promotion(version)


def hold(recipe: Recipe, ds: date, *, settings: Settings, by: str = BY_GATE, note: str = "") -> Withheld:
    """Keep the day's version from consumers until a person decides, and tell the on-call."""
    return _withhold(recipe, ds, "held", settings=settings, by=by, note=note)


def reject(recipe: Recipe, ds: date, *, settings: Settings, by: str = BY_GATE, note: str = "") -> Withheld:
    """Refuse the day's version, and tell the on-call."""
    return _withhold(recipe, ds, "rejected", settings=settings, by=by, note=note)


def rollback(recipe: Recipe, *, settings: Settings, by: str, note: str = "") -> Promotion:
    """Make the champion before the champion again; the one that was is rejected, its embeddings invisible.

    So is what consumers learn behind it, or have learnt and no release has moved to: it would serve tomorrow, and was
    trained from what is rejected. One step back each time. ValueError when there is nothing to go back to.
    """
    registry, lake = Registry(settings), Lake(settings.lake)
    with model_lock(settings, recipe.name) as check:
        champion = registry.alias(recipe.name, "champion")
        previous = registry.alias(recipe.name, "previous")
        if champion is None or previous is None:
            raise ValueError(
                f"{recipe.name} has no previous champion to roll back to "
                f"(champion: {champion.described() if champion else 'none'}); with `--ds D` the promoted day D, if it "
                "does not serve, is taken back alone"
            )
        require_whole(previous, settings)
        text = f"rolled back to version {previous.number}" + (f": {note}" if note else "")
        check()
        behind = [one for one in learning_first(registry.versions(recipe.name)) if order(one) > order(champion)]
        left = [_take_down(one, lake, registry, by=by, note=text) for one in behind]
        if champion.number != previous.number:
            left.append(_take_down(champion, lake, registry, by=by, note=text))
            registry.set_alias(recipe.name, "champion", previous.number)
        for version in left:
            tell_rolled_back(version, settings=settings)
        point_at_previous(registry, previous)
        return _promotion(previous, learnt=_learnt_from_withdrawn(registry, recipe.name))


def take_back(recipe: Recipe, ds: date, *, settings: Settings, by: str, note: str = "") -> TakenBack:
    """Reject the promoted version of a day while the champion stays: one that waits to be learnt, or an older one.

    ValueError: it is the champion, or was never promoted.
    """
    registry, lake = Registry(settings), Lake(settings.lake)
    with model_lock(settings, recipe.name) as check:
        version, champion = registry.get(recipe.name, ds), registry.alias(recipe.name, "champion")
        if champion is not None and champion.number == version.number:
            raise ValueError(
                f"{version.described()} is the champion; `usermodel snapshots rollback --recipe {recipe.name}`, "
                "without a day, goes back to the one before"
            )
        if version.visible is None or version.decision not in ("promoted", "rejected"):
            raise ValueError(
                f"{version.described()} is {version.decision}; only a promoted day is taken back; "
                f"`usermodel snapshots reject --recipe {recipe.name} --ds {ds}` refuses this one"
            )
        check()
        left = _take_down(version, lake, registry, by=by, note="taken back" + (f": {note}" if note else ""))
        tell_rolled_back(left, settings=settings)
        if champion is not None:
            point_at_previous(registry, champion)
        first = ds if champion is None else champion.ds
        learnt = _learnt_from_withdrawn(registry, recipe.name)
        return TakenBack(
            model=recipe.name, ds=ds, version=left.number, by=by,
            partitions=(first, *(day for day in learnt if day != first)),
        )  # fmt: skip


def _take_down(version: Version, lake: Lake, registry: Registry, *, by: str, note: str) -> Version:
    """Rejected and invisible. It waits until that is done, so that what was killed in between is found again."""
    left = registry.decide(version, "rejected", by=by, note=note)
    withdraw(version, registry, lake)
    return registry.tag(left, {"waits_for": ""}) if left.waits_for else left


def point_at_previous(registry: Registry, champion: Version) -> None:
    """`previous`: what a rollback from `champion` goes back to, the newest before it that may serve; or nothing."""
    same_day = registry.promoted_on(champion.model, champion.ds, below=champion.number)
    older = [version for version in [same_day] if version is not None and version.is_servable]
    older += registry.promoted(champion.model, before=champion.ds, servable=True)
    earlier = next(iter(older), None)
    if earlier is None:
        registry.drop_alias(champion.model, "previous")
    else:
        registry.set_alias(champion.model, "previous", earlier.number)


def _learnt_from_withdrawn(registry: Registry, model: str) -> tuple[date, ...]:
    """The days of consumers that learnt from embeddings that were visible once and are no more."""
    from trainer.downstream.checkpoint import days_that_joined

    gone = [version.visible for version in registry.withdrawn(model) if version.visible is not None]
    return days_that_joined(registry.settings, model, gone)


def _promotion(version: Version, *, learnt: tuple[date, ...] = ()) -> Promotion:
    if version.visible is None:
        raise RuntimeError(f"{version.described()} is promoted without embeddings; its tags were edited")
    return Promotion(
        model=version.model,
        ds=version.ds,
        version=version.number,
        embeddings=version.visible,
        by=version.tags["decided_by"],
        partitions=(version.ds, *(ds for ds in learnt if ds != version.ds)),
    )


def _require_promotable(version: Version, lake: Lake, *, by: str) -> None:
    decided_by = version.tags.get("decided_by", BY_GATE)
    if by == BY_GATE and decided_by != BY_GATE:
        raise ValueError(
            f"{version.described()} was {version.decision} by {decided_by}, whom the gate does not overturn: "
            f"promote it by hand, `usermodel snapshots promote --recipe {version.model} --ds {version.ds}`"
        )
    if version.embeddings is None or not lake.dataset(version.embeddings).count_rows():
        raise ValueError(
            f"{version.described()} has no embeddings; "
            f"run `usermodel snapshots infer --recipe {version.model} --ds {version.ds}` first"
        )


def require_whole(version: Version, settings: Settings) -> None:
    """DamagedError, of which the on-call is told: a sealed file of the version is not what was sealed."""
    try:
        verify(on_disk(version), manifest_sha256=version.tags["manifest_sha256"])
    except DamagedError as error:
        tell_damaged(version, error, settings=settings)
        raise


def _withhold(
    recipe: Recipe, ds: date, decision: Literal["held", "rejected"], *, settings: Settings, by: str, note: str
) -> Withheld:
    registry = Registry(settings)
    with model_lock(settings, recipe.name) as check:
        version = registry.get(recipe.name, ds)
        if version.decision == "promoted":
            raise ValueError(
                f"{version.described()} is promoted; take it back with "
                f"`usermodel snapshots rollback --recipe {recipe.name}`; with `--ds {ds}` if it does not serve"
            )
        judged = gate(recipe, ds, settings=settings)
        check()
        version = registry.decide(version, decision, by=by, note=note or "; ".join(judged.reasons))
        written = write_report(recipe, ds, settings=settings)
        tell_withheld(version, judged, written.causes, report=written.path, settings=settings)
    return Withheld(
        model=recipe.name,
        ds=ds,
        version=version.number,
        decision=decision,
        reasons=judged.reasons,
        report=written.path,
    )
