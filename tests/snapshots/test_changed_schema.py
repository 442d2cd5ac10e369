"""The schema or the tower changes between two published days: a verdict, never a crash."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.arrow import user_features_schema
from features.fingerprint import fingerprint
from features.lake import Lake
from features.schema import DenseFeature, Schema, SparseFeature, Table
from infra.settings import Settings
from snapshots.gate import gate
from snapshots.inference import infer
from snapshots.promotion import promote
from snapshots.registry import Registry, Version
from snapshots.shift.measure import Shift, check_shift
from tests.snapshots.world import DAYS, TinySource, commit_users, make_tower, publish_day, tiny_recipe
from trainer.recipe import Recipe

SCHEMA = TinySource().schema
AGE = SCHEMA.dense[0]


def recipe_with(schema: Schema = SCHEMA, **tower: int) -> Recipe:
    before = tiny_recipe()
    return replace(before, source=TinySource(schema=schema), user_tower=replace(before.user_tower, **tower))


def commit_day_two(lake: Lake, schema: Schema) -> None:
    """60 users with every feature that `schema` asks for."""
    rng = np.random.default_rng(3)
    aside = Lake(lake.root + "-aside")
    old = aside.read(commit_users(aside, DAYS[1], range(60)))
    columns = {name: old.column(name) for name in old.schema.names}
    columns |= {name: pa.array(rng.random(60), pa.float32()) for name in ("speed",)}
    columns |= {"places_seen": pa.array([[int(i)] for i in rng.integers(0, 99, 60)])}
    layout = user_features_schema(schema)
    table = pa.table([columns[field.name].cast(field.type) for field in layout], schema=layout)
    lake.commit("user_features/tiny", DAYS[1], table, fingerprint=fingerprint("day two", [f.name for f in layout]))


def two_days(recipe: Recipe, settings: Settings, damage: Callable[[Version], None] | None = None) -> Shift:
    """Day 1 with the tiny recipe, promoted; day 2 with `recipe`, from day 1, embedded and measured."""
    lake, before = Lake(settings.lake), tiny_recipe()
    commit_users(lake, DAYS[0], range(60))
    parent = publish_day(before, DAYS[0], make_tower(before), settings=settings)
    infer(before, DAYS[0], settings=settings)
    check_shift(before, DAYS[0], settings=settings)
    promote(before, DAYS[0], settings=settings, by="test")
    commit_day_two(lake, recipe.source.schema)
    publish_day(recipe, DAYS[1], make_tower(recipe, noise=0.01), settings=settings, parent=parent)
    infer(recipe, DAYS[1], settings=settings)
    if damage is not None:
        damage(parent)
    return check_shift(recipe, DAYS[1], settings=settings)


def remove(version: Version) -> None:
    version.path.chmod(0o755)
    shutil.rmtree(version.path)


def why_not_comparable(shift: Shift) -> str:
    row = next(row for row in shift.rows if (row.kind, row.metric) == ("same_inputs", "predecessor"))
    assert row.value == float(not row.note)
    return row.note


NEW_TABLE = replace(
    SCHEMA,
    tables=(*SCHEMA.tables, Table(name="more", num_rows=30)),
    sparse=(SparseFeature(name="places_seen", table="more"), *SCHEMA.sparse),
)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(NEW_TABLE, id="new-table"),
        pytest.param(replace(SCHEMA, dense=(AGE, DenseFeature(name="speed"))), id="new-dense"),
        pytest.param(
            replace(SCHEMA, tables=(replace(SCHEMA.tables[0], num_rows=70), SCHEMA.tables[1])), id="re-hashed"
        ),
        pytest.param(replace(SCHEMA, sparse=(SCHEMA.sparse[1], SCHEMA.sparse[0], SCHEMA.sparse[2])), id="reordered"),
    ],
)
def test_what_the_parent_can_still_embed_is_compared(schema: Schema, settings: Settings) -> None:
    shift = two_days(recipe_with(schema), settings)
    assert why_not_comparable(shift) == ""
    assert any(row.kind == "same_inputs" and row.metric == "cosine_mean" for row in shift.rows)


@pytest.mark.parametrize(
    ("schema", "note"),
    [
        pytest.param(replace(SCHEMA, dense=()), "age", id="removed-dense"),
        pytest.param(replace(SCHEMA, sparse=SCHEMA.sparse[1:]), "liked", id="removed-sparse"),
    ],
)
def test_what_the_parent_cannot_embed_is_held_with_the_reason(schema: Schema, note: str, settings: Settings) -> None:
    recipe = recipe_with(schema)
    shift = two_days(recipe, settings)
    found = why_not_comparable(shift)
    assert found.startswith("version 1 of 2026-01-01 ")
    assert note in found
    decision = gate(recipe, DAYS[1], settings=settings)
    assert decision.verdict == "hold"
    assert any(found in reason for reason in decision.reasons)


def test_a_parent_whose_snapshot_is_gone_is_held_with_the_reason(settings: Settings) -> None:
    shift = two_days(recipe_with(), settings, damage=remove)
    found = why_not_comparable(shift)
    assert "version 1 of 2026-01-01 cannot be used" in found


@pytest.mark.parametrize(
    ("tower", "words"),
    [
        pytest.param({"dim": 12}, "has dim 8 in the table and 12 in the recipe", id="dim"),
        pytest.param({"num_embeddings": 3}, "column embedding_2 has dim None in the table", id="one more"),
        pytest.param({"num_embeddings": 1}, r"the table has \['embedding_1', 'pooled_1'\]", id="one less"),
    ],
)
def test_another_output_is_another_product(tower: dict[str, int], words: str, settings: Settings) -> None:
    with pytest.raises(ValueError, match=words + ".*rename the recipe"):
        two_days(recipe_with(**tower), settings)
    assert Registry(settings).get("tiny", DAYS[1]).embeddings is None


def test_shift_rows_of_before_there_were_notes_are_read(settings: Settings, tmp_path: Path) -> None:
    from snapshots.shift.rows import ROWS, read_rows

    lake = Lake(settings.lake)
    row = {"version": 1, "kind": "same_inputs", "metric": "predecessor", "embedding": None, "pooling": "none",
           "value": 0.0, "num_users": 0}  # fmt: skip
    old = lake.commit(
        "shift/tiny", DAYS[0], pa.Table.from_pylist([row], schema=ROWS.remove(len(ROWS) - 1)), fingerprint="a" * 20
    )
    new = lake.commit("shift/tiny", DAYS[1], pa.Table.from_pylist([row], schema=ROWS), fingerprint="b" * 20)
    assert [found.note for part in (old, new) for found in read_rows(lake, part)] == ["", ""]
    assert dataclasses.replace(old, version=new.version) != new
    assert read_rows(lake, dataclasses.replace(old, version=new.version))[0].note == ""
