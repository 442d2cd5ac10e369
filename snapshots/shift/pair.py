"""What a version is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from features.lake import Lake, Partition
from snapshots.registry import Registry, Version, partition_from

if TYPE_CHECKING:
    from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a version is compared with, all of it fixed once the versions before it are decided."""

    version: Version
    embeddings: Partition
    users: Partition
    parent: Version | None
    previous: Partition | None
    """The embeddings of the last promoted day, as consumers see them."""
    examples: Partition | None
    previous_users: Partition | None
    previous_examples: Partition | None
    """Of the day of `previous`, as its version used them."""


def compared(recipe: Recipe, ds: date, *, registry: Registry, lake: Lake) -> Compared:
    """The day's version and its predecessors. ValueError when the day is not embedded yet."""
    version = registry.get(recipe.name, ds)
    if version.embeddings is None:
        raise ValueError(
            f"{version.described()} has no embeddings; "
            f"run `usermodel snapshots infer --recipe {recipe.name} --ds {ds}` first"
        )
    promoted = registry.promoted(recipe.name, before=ds)
    previous = next((earlier for earlier in promoted if earlier.visible is not None), None)
    users, examples = (
        None if previous is None else partition_from(previous.tags, name, previous.ds)
        for name in ("user_features", "examples")
    )
    return Compared(
        version=version,
        embeddings=version.embeddings,
        users=lake.get(f"user_features/{recipe.source.name}", ds),
        parent=None if version.parent is None else registry.number(recipe.name, version.parent),
        previous=None if previous is None else previous.visible,
        examples=partition_from(version.tags, "examples", ds),
        previous_users=users,
        previous_examples=examples,
    )
