"""What of a day's examples a version learnt, in tags of the version: with it, so that nothing else need be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from features.selection import described

if TYPE_CHECKING:
    from snapshots.registry import Version
    from trainer.trained import TrainedDay

_NUMBER, WHERE = "examples.learnt", "examples.where"


def learnt_tags(trained: TrainedDay) -> dict[str, str]:
    """What the two functions below read."""
    return {_NUMBER: str(trained.num_examples)} | ({WHERE: described(trained.where)} if trained.where else {})


def num_learnt(version: Version) -> int | None:
    """How many examples it learnt; None of a version from before that was written down."""
    found = version.tags.get(_NUMBER)
    return None if found is None else int(found)


def where_learnt(version: Version) -> str:
    """` where item_domain in [0]`: which of the examples it learnt; empty where it learnt them all."""
    found = version.tags.get(WHERE, "")
    return f" where {found}" if found else ""
