"""What a consumer of Table 4 is given: which versions of a user's embeddings, on which features, pooled or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from infra.experiments.lab import Computed, Lab
from infra.experiments.towers import DailyTowers
from infra.experiments.turning import Turning, blur
from snapshots.pooling import LOOKBACK_DAYS
from trainer.downstream.arms import shape_of
from trainer.downstream.joined import NewestEmbeddings

POOLED = (2, 3, 4, 5)
NONE, OPTION_1 = "no pooling", "option 1"
TURNED = (0.97, 0.87, 0.7)
PAPERS_TURN = 0.87
"""Table 3's less stable embedding."""
TURNED_ONCE = f"turned to {PAPERS_TURN}"

OfDay = Callable[[int], Computed]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What of each day is joined on later days: in training, and when scored."""

    trained: OfDay
    evaluated: OfDay | None = None
    only: int | None = None
    """One of the embeddings, None: all of them."""


@dataclass(kw_only=True)
class Days:
    """A variant's embeddings of every day, each made once."""

    lab: Lab
    of_day: OfDay
    only: int | None
    _made: dict[int, Computed] = field(default_factory=dict)

    def of(self, day: int) -> Computed:
        """What the day's snapshot gave."""
        if day not in self._made:
            made = self.of_day(day)
            if self.only is not None:
                made = replace(made, vectors=made.vectors[:, self.only : self.only + 1])
            self._made[day] = made
        return self._made[day]

    def newest(self, day: int) -> NewestEmbeddings:
        """For the examples of `day`."""
        return self.lab.newest({of: self.of(of) for of in range(max(day - LOOKBACK_DAYS, 0), day)}, day)


def variants(lab: Lab, towers: DailyTowers, *, seed: int) -> dict[str, Variant]:
    """By arm."""
    found = {NONE: Variant(trained=lambda day: lab.computed(towers, day))}
    for versions in POOLED:
        found[f"pooling {versions}"] = Variant(trained=_served(lab, towers, versions))
    found[OPTION_1] = Variant(
        trained=lambda day: lab.computed(towers, day),
        evaluated=lambda day: lab.computed(towers, day, version=max(day - 1, 0)),
    )
    for k in range(shape_of(towers.recipe.user_tower)[0]):
        found[f"Embedding{k} alone"] = Variant(trained=lambda day: lab.computed(towers, day), only=k)
    for cosine in TURNED:
        turning = Turning(cosine=cosine, seed=seed)
        found[f"turned to {cosine}"] = Variant(trained=_turned(lab, towers, turning))
    turning = Turning(cosine=PAPERS_TURN, seed=seed)
    found[f"{TURNED_ONCE}, pooling 3"] = Variant(trained=_turned_and_pooled(lab, towers, turning))
    found[f"{TURNED_ONCE}, option 1"] = Variant(
        trained=_turned(lab, towers, turning), evaluated=_turned(lab, towers, turning, behind=1)
    )
    found[f"blurred to {PAPERS_TURN}"] = Variant(
        trained=lambda day: blur(lab.computed(towers, day), day, cosine=PAPERS_TURN, seed=seed)
    )
    return found


def _served(lab: Lab, towers: DailyTowers, versions: int) -> OfDay:
    return lambda day: lab.served(towers, day, versions=versions)


def _turned(lab: Lab, towers: DailyTowers, turning: Turning, *, behind: int = 0) -> OfDay:
    def of_day(day: int) -> Computed:
        version = max(day - behind, 0)
        return turning.apply(lab.computed(towers, day, version=version), version)

    return of_day


def _turned_and_pooled(lab: Lab, towers: DailyTowers, turning: Turning) -> OfDay:
    turned = _turned(lab, towers, turning)
    return lambda day: lab.pooled([turned(of) for of in range(max(day - LOOKBACK_DAYS, 0), day + 1)], versions=3)
