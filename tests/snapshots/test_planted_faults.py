"""Each planted fault is caught and named, and the quiet days before it are promoted: `tests.experiments.detection`, in
seconds, with real features and towers that hardly move in place of training."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest
import torch

from features.examples import build_examples
from features.fingerprint import fingerprint
from features.lake import Lake
from infra.settings import Settings
from snapshots.promotion import promote
from snapshots.publish import publish_tower
from snapshots.registry import Registry
from tests.experiments.detection_faults import (
    Fault,
    collapse,
    part_of_day,
    plant_in_log,
    rotate,
    scale,
    stale,
    swap,
    zero,
)
from tests.experiments.detection_world import Judged, days, judge, quiet_recipe
from tests.snapshots.world import GOOD, make_tower
from trainer.model.user_tower import UserTower
from trainer.recipe import Recipe
from trainer.trained import TrainedDay

QUIET_DAYS = 9
RECIPE = replace(quiet_recipe(events_per_day=1_500), name="planted")
FAULTS = [
    Fault(name="a rotated space", kind="rotated-space", magnitude=45, unit="degrees", tower=rotate),
    Fault(name="a scaled norm", kind="scaled-norm", magnitude=0.5, unit="times", tower=scale),
    Fault(name="a collapsed dimension", kind="collapsed-dimension", magnitude=0.06, unit="of D", tower=collapse),
    Fault(name="a swapped pair", kind="swapped-pair", magnitude=1, unit="", tower=swap),
    Fault(name="zeros", kind="broken-feature", magnitude=1, unit="", log=zero, feature="dense_001"),
    Fault(name="empty lists", kind="broken-feature", magnitude=0.5, unit="", log=zero, feature="ids_001"),
    Fault(name="a stale value", kind="stale-feature", magnitude=1, unit="", log=stale, feature="dense_002"),
    Fault(name="stale lists", kind="stale-feature", magnitude=1, unit="", log=stale, feature="ids_000"),
    Fault(name="half a day", kind="partial-day", magnitude=0.5, unit="of the day", log=part_of_day),
]


def _day(recipe: Recipe, ds: date, *, settings: Settings, fault: Fault | None = None) -> Judged:
    """From the log to the verdict; the fault where it arises."""
    before = ds - timedelta(days=1)
    if fault is not None and fault.log is not None:
        plant_in_log(recipe, ds, fault, settings=settings, before=before)
    built = build_examples(recipe.source, ds, settings=settings, reject_max_share=0)
    parent = Registry(settings).find(recipe.name, before)
    trained = TrainedDay(
        model=recipe.name, ds=ds, fingerprint=fingerprint(ds, "" if fault is None else fault.name),
        parent_fingerprint=parent.tags["training"] if parent else None, parent_ds=before if parent else None,
        examples=built.examples, num_examples=built.num_examples,
        metrics={task.name: dict(GOOD) for task in recipe.tasks}, seconds=1.0, ranks=1, revision=0,
        path=settings.checkpoints / recipe.name,
    )  # fmt: skip

    def tower() -> UserTower:
        made = make_tower(recipe, noise=0.002 * (ds.day % 3))
        if fault is not None and fault.tower is not None:
            with torch.no_grad():
                fault.tower(made, fault.magnitude)
        return made

    publish_tower(recipe, trained, tower, settings=settings)
    name = "none" if fault is None else fault.name
    return judge(recipe, ds, settings=settings, fault=name, magnitude=0.0 if fault is None else fault.magnitude)


@pytest.mark.slow
def test_every_planted_fault_is_caught_and_named_after_quiet_days(settings: Settings, lake: Lake) -> None:
    for ds in days(QUIET_DAYS):
        quiet = _day(RECIPE, ds, settings=settings)
        assert (quiet.verdict, quiet.causes) == ("promote", []), f"{ds}: {quiet.reasons} {quiet.sentences}"
        promote(RECIPE, ds, settings=settings, by="gate")
    ds = days(QUIET_DAYS + 1)[-1]
    quiet = _day(RECIPE, ds, settings=settings)
    assert (quiet.verdict, quiet.causes) == ("promote", [])
    for fault in FAULTS:
        found = _day(RECIPE, ds, settings=settings, fault=fault)
        assert found.verdict != "promote", f"{fault.label} was not caught"
        assert found.causes[:1] == [fault.kind], f"{fault.label}: {found.sentences}, {found.reasons}"
        if fault.feature:
            assert fault.feature in found.sentences[0]
