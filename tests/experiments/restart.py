"""A model that was started anew, given to a consumer that was trained on the old one's embeddings.

The other model has learnt the same days from another seed: as good, in another space. Its version v is scored as
`tests.experiments.version_skew` scores version v of the old one, as it is and mapped to the old one's version v.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from features.lake import Lake
from infra.experiments.towers import DailyTowers
from infra.settings import Settings
from snapshots.alignment import fit
from tests.experiments.published import Published, Strategy
from tests.experiments.version_skew import SCORED_AFTER, consumer_of, score, versions
from trainer.recipe import DownstreamRecipe, Recipe
from trainer.stabilizers import Alignment, BackwardCompatible, Procrustes

ALIGNMENTS: dict[str, Alignment | None] = {
    "as it is": None,
    "Procrustes": Procrustes(),
    "backward-compatible 0.001": BackwardCompatible(ridge=1e-3),
    "backward-compatible 1": BackwardCompatible(ridge=1.0),
}


def restarted(
    old: Published,
    other: DailyTowers,
    days: Sequence[date],
    *,
    recipe: Recipe,
    downstream: DownstreamRecipe,
    settings: Settings,
) -> Iterator[str]:
    """A Markdown table: eval NE difference to no embeddings in percent, mean over v. old: without stabilisers."""
    given = {"the model that it was trained on": old} | {
        f"started anew, {name}": mapped(old, other, alignment) for name, alignment in ALIGNMENTS.items()
    }
    diffs: dict[str, list[float]] = {name: [] for name in given}
    for version in versions(days):
        pair = consumer_of(old, days[version + 1], recipe=recipe, downstream=downstream, settings=settings)
        for name, published in given.items():
            scored = score(pair, published, version, version + SCORED_AFTER, days=days, recipe=recipe,
                           downstream=downstream, lake=Lake(settings.lake))  # fmt: skip
            diffs[name].append(scored.ne_diff_percent)
    yield "| embeddings given to the consumer | eval NE diff % |\n|---|---|"
    for name, values in diffs.items():
        yield f"| {name} | {np.mean(values):+.2f} |"


def mapped(old: Published, other: DailyTowers, alignment: Alignment | None) -> Published:
    """The other model, version by version in the old one's space."""

    def matrix(day: int) -> np.ndarray | None:
        return None if alignment is None else fit(alignment, other.embed(day, day), old.computed(day, day)).matrix

    maps = [matrix(day) for day in range(len(old.maps))]
    return Published(strategy=Strategy(name="", alignment=alignment), towers=other, maps=maps)
