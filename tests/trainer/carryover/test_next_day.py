"""Real days: the recipe changes overnight, and day 2 goes on from day 1."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from torch.distributed.checkpoint import FileSystemReader

from features.arrow import examples_schema
from features.lake import Lake, Partition
from features.schema import DenseFeature, Schema, SparseFeature, Table
from infra.settings import Settings
from tests.trainer.planted import DAY, SCHEMA, PlantedSource, commit_day, planted_examples, planted_recipe
from tests.trainer.test_checkpoint import assignment_from
from trainer import sharding
from trainer.carryover.document import DOCUMENT
from trainer.checkpoint import MANIFEST, STATE, DamagedCheckpointError
from trainer.config import TrainingConfig
from trainer.job import train
from trainer.origin import warm_start
from trainer.recipe import Recipe, Task
from trainer.trained import TrainedDay, load_user_tower, read_trained

SECOND = DAY + timedelta(1)
ROWS = 4000
CHANGED = Schema(
    tables=(
        Table(name="user", num_rows=1000),  # twice the rows
        Table(name="topic", num_rows=64),
        Table(name="item", num_rows=300),
        Table(name="place", num_rows=40),
    ),
    sparse=(SparseFeature(name="place", table="place"), *SCHEMA.sparse),
    dense=(DenseFeature(name="speed"), *SCHEMA.dense[1:]),
    tasks=("click", "buy", "like"),
)


def changed_recipe() -> Recipe:
    """A new table, a grown one, a new and a removed dense feature, a new and a removed task."""
    tasks = (Task(name="like", weight=0.5), Task(name="click"))
    return planted_recipe(source=PlantedSource(schema=CHANGED), tasks=tasks)


def commit_changed(lake: Lake) -> Partition:
    """The second day, as the changed source reads it."""
    rows = planted_examples(ROWS, seed=SECOND.toordinal(), ds=SECOND)
    rows = rows.append_column("place", rows.column("topic")).append_column("speed", rows.column("hour"))
    rows = rows.append_column("like", rows.column("click"))
    layout = examples_schema(CHANGED)
    table = pa.table([rows.column(field.name) for field in layout], schema=layout)
    return lake.commit("examples/planted", SECOND, table, fingerprint="c" * 20)


@pytest.mark.slow
def test_day_two_goes_on_with_a_changed_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    warm, cold = (Settings(home=tmp_path / name, ranks=2, _env_file=None) for name in ("warm", "cold"))
    commit_day(Lake(warm.lake), DAY, num_rows=ROWS)
    first = train(planted_recipe(), DAY, settings=warm)
    for settings in (warm, cold):
        commit_changed(Lake(settings.lake))
    second = train(changed_recipe(), SECOND, settings=warm)
    alone = train(changed_recipe(), SECOND, settings=cold)

    before, after = alone.metrics["click"]["ne"], second.metrics["click"]["ne"]
    assert before is not None
    assert after is not None
    assert after < before - 0.02, "what was learnt on the first day is used"
    like = second.metrics["like"]["calibration"]
    assert like is not None
    assert 0.7 < like < 1.3, "a new task begins from its positive rate"

    assert (second.parent_fingerprint, alone.parent_fingerprint) == (first.fingerprint, None)
    assert (first.carried_over, alone.carried_over) == (None, None)
    carried = second.carried_over
    assert carried is not None
    assert carried.num_in_part > 5
    reasons = {change.why: change.outcome for change in carried.changes}
    assert reasons["the table is new"] == "fresh"
    assert reasons["rows 500 -> 1000: row r takes over row r mod 500"] == "repeated"
    assert any("new: like, gone: buy" in why for why in reasons)
    assert read_trained(second.path) == second
    assert "warm start:   rows 500 -> 1000: row r takes over row r mod 500: user_tower." in caplog.text

    # Nothing of the first day's metrics: each example of the second is counted once.
    assert second.metrics["click"]["examples"] == second.metrics["like"]["examples"] == ROWS
    assert second.metrics["click"]["positives"] == alone.metrics["click"]["positives"]


def test_a_checkpoint_holds_no_metric(pair: tuple[TrainedDay, TrainedDay]) -> None:
    names = FileSystemReader(pair[1].path / STATE).read_metadata().state_dict_metadata
    assert {name.split(".")[0] for name in names} == {"model", "optim"}


def without_document(trained: TrainedDay, to: Path) -> TrainedDay:
    """The checkpoint as one that was written before there were documents."""
    to.mkdir()
    for path in trained.path.iterdir():
        (to / path.name).symlink_to(path) if path.name not in (MANIFEST, DOCUMENT) else None
    manifest = json.loads((trained.path / MANIFEST).read_text())
    del manifest["files"][DOCUMENT]
    (to / MANIFEST).write_text(json.dumps(manifest))
    return replace(trained, path=to)


def test_a_parent_without_a_document_is_loaded_as_it_is(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None
) -> None:
    parent = without_document(pair[1], tmp_path / "old")
    config = assignment_from(parent, home).config
    sharded = sharding.build(config, local_world_size=1)
    assert warm_start(sharded, parent, config=config).is_unchanged


def test_a_parent_without_a_document_that_does_not_fit_is_refused(
    pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, one_rank: None
) -> None:
    parent = without_document(pair[1], tmp_path / "old")
    config = TrainingConfig.of(changed_recipe())
    sharded = sharding.build(config, local_world_size=1)
    with pytest.raises(RuntimeError, match=r"holds another model .* Train with the recipe of 2026-01-02 once more"):
        warm_start(sharded, parent, config=config)


def test_the_same_shapes_in_another_order_are_another_tower(pair: tuple[TrainedDay, TrainedDay]) -> None:
    schema = replace(SCHEMA, sparse=(*SCHEMA.sparse[2::-1], *SCHEMA.sparse[3:]))
    with pytest.raises(DamagedCheckpointError, match=r"the user tower of recipe tiny: .*: reordered; the recipe was"):
        load_user_tower(planted_recipe(source=PlantedSource(schema=schema)), pair[1])
    items = replace(SCHEMA, sparse=(*SCHEMA.sparse[:3], *SCHEMA.sparse[:2:-1]))
    load_user_tower(planted_recipe(source=PlantedSource(schema=items)), pair[1])
