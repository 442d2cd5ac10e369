"""What an arm joins: the vectors that a user model would have published, and several models' side by side."""

from __future__ import annotations

from functools import cache

from infra.experiments.following import Joined
from infra.experiments.lab import Computed, Lab
from infra.experiments.towers import DailyTowers
from snapshots.pooling import LOOKBACK_DAYS
from trainer.downstream.arms import shape_of
from trainer.downstream.joined import NewestEmbeddings, SideBySide


def served_by(lab: Lab, towers: DailyTowers) -> Joined:
    """Each user's newest pooled vectors of a day before that of the examples."""

    @cache
    def served(day: int) -> Computed:
        return lab.served(towers, day, versions=towers.recipe.pooling_versions)

    @cache
    def newest(day: int) -> NewestEmbeddings:
        return lab.newest({d: served(d) for d in range(max(day - LOOKBACK_DAYS, 0), day)}, day)

    return Joined(shapes=(shape_of(towers.recipe.user_tower),), trained=newest)


def beside(*joined: Joined) -> Joined:
    """The embeddings of all of them."""
    shapes = tuple(shape for one in joined for shape in one.shapes)
    return Joined(shapes=shapes, trained=lambda day: SideBySide(parts=tuple(one.trained(day) for one in joined)))
