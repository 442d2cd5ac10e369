"""The examples that both versions are scored on: of a day that neither has learnt, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.lake import Lake
from features.schema import USER_ID
from snapshots.compare.subject import NotLoadableError, Subject
from snapshots.registry import Version
from trainer.sample import chunks_of, sample_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.recipe import Recipe

EVERYONE = "all"
_HEAVY_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of one day's examples, [N] in all."""

    ds: date
    held_out: bool
    """Whether neither version has learnt the day; else the newer one has, and its scores are flattered."""
    chunks: list[pa.Table]
    user_ids: NDArray[np.int64]
    slices: dict[str, NDArray[np.bool_]]
    """[N]: everyone, heavy, new, returning; those that have somebody."""


def draw(recipe: Recipe, a: Subject, b: Subject, *, lake: Lake, num_rows: int, seed: int) -> Sample:
    """`num_rows` examples, or all of a smaller day. NotLoadableError: no day that both can read."""
    table = f"examples/{recipe.source.name}"
    newest = max(a.version.ds, b.version.ds)
    days = lake.days(table)
    ds = next((day for day in days if day > newest), newest)
    if ds not in days:
        raise NotLoadableError(f"there are no examples of {newest} or a later day in {table}")
    partition = lake.get(table, ds)
    columns = sorted({*a.encoder.columns, *b.encoder.columns})
    written = set(lake.dataset(partition).schema.names)
    if missing := sorted(set(columns) - written):
        raise NotLoadableError(f"{table} of {ds} lacks {missing}, which one of the versions reads")
    rows = sample_rows(
        lake, partition, columns=[USER_ID, *columns], num_rows=num_rows, seed=seed, where=recipe.examples
    )
    user_ids = rows.column(USER_ID).to_numpy()
    return Sample(
        ds=ds,
        held_out=ds > newest,
        chunks=chunks_of(rows),
        user_ids=user_ids,
        slices=_slices(recipe, user_ids, (a.version, b.version), lake=lake, ds=ds),
    )


def _slices(
    recipe: Recipe, user_ids: NDArray[np.int64], versions: Sequence[Version], *, lake: Lake, ds: date
) -> dict[str, NDArray[np.bool_]]:
    """Heavy: as many of the sampled examples as the tenth that has most, and more than half of the users have.
    New: not active on the newest day that a version has learnt before the scored one.
    """
    _, owner, counts = np.unique(user_ids, return_inverse=True, return_counts=True)
    least, median = np.quantile(counts, [1 - _HEAVY_SHARE, 0.5], method="lower")
    found = {EVERYONE: np.ones(len(user_ids), dtype=bool), "heavy": ((counts >= least) & (counts > median))[owner]}
    learnt = max((version.ds for version in versions if version.ds < ds), default=None)
    known = None if learnt is None else lake.find(f"user_features/{recipe.source.name}", learnt)
    if known is not None:
        active = lake.read(known, columns=[USER_ID]).column(USER_ID).to_numpy()
        found["returning"] = np.isin(user_ids, active)
        found["new"] = ~found["returning"]
    return {name: mask for name, mask in found.items() if mask.any()}
