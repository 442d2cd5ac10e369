"""Embedding distribution shift (sections 5.2 and 6.5): how far the day's embeddings moved, and by what.

same_inputs: one sample of the day's users through the parent's snapshot and the candidate's: the model alone.
consecutive_days: users of both the last promoted day and this one, as consumers see them; computed vectors
(pooling `none`) and averaged ones (pooling `3`), Table 3 of the paper.
inputs: the day's user features and examples beside those of the last promoted day.
populations: all users of either day, whoever they are.
What each metric is, which are exact and which are of a sample: infra/decisions/015-shift.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from features.fingerprint import fingerprint
from features.lake import Lake, Partition
from infra.settings import Settings
from snapshots.registry import Registry, partition_from, partition_tags
from snapshots.runs import log_metrics
from snapshots.shift.consecutive_days import consecutive_days
from snapshots.shift.inputs import inputs
from snapshots.shift.ordered import SAMPLE_USERS
from snapshots.shift.pair import compared
from snapshots.shift.rows import EVERYONE, NOT_POOLED, PREDECESSOR, ROWS, ShiftRow, read_rows, table_of
from snapshots.shift.same_inputs import same_inputs
from snapshots.summary import Summarised, plain

if TYPE_CHECKING:
    from trainer.recipe import Recipe

log = logging.getLogger(__name__)

HEADLINES = (
    "cosine_mean", "cosine_p05", "norm_change_mean", "knn_overlap", "eigenspace_instability",
    "classifier_auc", "wasserstein_share", "psi_max", "mmd",
)  # fmt: skip
"""The metrics that are logged to MLflow, of everyone."""
_DEFINITION = 4  # of the metrics: part of the fingerprint


@dataclass(frozen=True, kw_only=True)
class Shift(Summarised):
    """The rows of `shift/<model>` for one day."""

    model: str
    ds: date
    version: int
    previous_ds: date | None
    """The last promoted day before this one."""
    partition: Partition
    rows: tuple[ShiftRow, ...]

    def summary(self) -> dict[str, Any]:
        """Of the rows, those that say whether there was something to compare with, and the headlines."""
        rows = tuple(row for row in self.rows if row.metric == PREDECESSOR or _is_headline(row))
        summary: dict[str, Any] = plain(replace(self, rows=rows))
        return summary


def check_shift(recipe: Recipe, ds: date, *, settings: Settings) -> Shift:
    """Measure the day's shift into `shift/<model>` and MLflow. ValueError when the day is not embedded."""
    registry, lake = Registry(settings), Lake(settings.lake)
    pair = compared(recipe, ds, registry=registry, lake=lake)
    key = fingerprint(
        _DEFINITION, SAMPLE_USERS, pair.version.number, pair.version.fingerprint,
        pair.embeddings.fingerprint, pair.users.fingerprint,
        pair.parent and pair.parent.fingerprint, pair.previous and pair.previous.fingerprint,
        [examples and examples.fingerprint for examples in (pair.examples, pair.previous_examples)], recipe.slices,
        *recipe.examples,
    )  # fmt: skip
    measured = partition_from(pair.version.tags, "shift", ds)
    found = measured or lake.find(table_of(recipe.name), ds)
    if found is None or not key.startswith(found.fingerprint):
        rows = [row for measure in (same_inputs, consecutive_days, inputs) for row in measure(recipe, pair, lake)]
        table = pa.Table.from_pylist([vars(row) for row in rows], schema=ROWS)
        found = lake.commit(
            table_of(recipe.name), ds, table, fingerprint=key, metadata={"version": pair.version.number}
        )
    shift = Shift(
        model=recipe.name,
        ds=ds,
        version=pair.version.number,
        previous_ds=pair.previous.ds if pair.previous else None,
        partition=found,
        rows=read_rows(lake, found),
    )
    registry.tag(pair.version, partition_tags("shift", found))
    log_metrics(registry, recipe, pair.version, {row.name: row.value for row in shift.rows if _is_headline(row)})
    for row in shift.rows:
        if _is_headline(row) or (row.metric == PREDECESSOR and row.note):
            log.info("%s model=%s ds=%s value=%.4f %s", row.name, recipe.name, ds, row.value, row.note)
    return shift


def _is_headline(row: ShiftRow) -> bool:
    """What MLflow shows; everything is in the table."""
    if row.users != EVERYONE or (row.kind == "populations" and row.pooling == NOT_POOLED):
        return False
    return row.metric in HEADLINES
