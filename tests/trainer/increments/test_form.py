"""When a day is written in full."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from tests.trainer.increments.world import LARGE, large_recipe
from tests.trainer.planted import PlantedSource, planted_recipe
from trainer.carryover.compare import Comparison, compare
from trainer.carryover.document import ModelDocument
from trainer.checkpoint import Base
from trainer.config import TrainingConfig
from trainer.increments.form import BaseDay, why_full, why_unheld
from trainer.planning.document import SavedPlan, SavedTable
from trainer.recipe import Checkpoints, Optimizer

DS = date(2026, 1, 8)
TODAY = ModelDocument(config=TrainingConfig.of(large_recipe()))
GROWN = replace(LARGE, tables=tuple(replace(table, num_rows=2 * table.num_rows) for table in LARGE.tables))
FEWER_TASKS = planted_recipe(source=PlantedSource(schema=LARGE), tasks=large_recipe().tasks[:1])


def base(age: int) -> BaseDay:
    return BaseDay(ds=DS - timedelta(age), base=Base(name=f"ds={DS - timedelta(age)}-0", manifest_sha256="0"))


def changed(**changes: Any) -> Comparison:
    """From a model with other values in its recipe."""
    return compare(ModelDocument(config=TrainingConfig.of(large_recipe(**changes))), TODAY)


UNCHANGED = changed()
SMALLER_TABLES = compare(
    ModelDocument(config=TrainingConfig.of(planted_recipe(source=PlantedSource(schema=GROWN)))), TODAY
)
DENSE_CHANGED = compare(ModelDocument(config=TrainingConfig.of(FEWER_TASKS)), TODAY)
OTHER_STATE = changed(optimizer=Optimizer(sparse="adagrad", sparse_lr=0.1, dense_lr=3e-3))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({}, None, id="increment"),
        pytest.param({"base": None}, "nothing to add to", id="no-base"),
        pytest.param({"carried": None}, "nothing to add to", id="cold-start"),
        pytest.param({"carried": SMALLER_TABLES}, "the tables changed", id="table-changed"),
        pytest.param({"carried": OTHER_STATE}, "the tables changed", id="table-optimizer-changed"),
        pytest.param({"carried": DENSE_CHANGED}, None, id="dense-changed"),
        pytest.param({"unheld": "table x is"}, "table x is", id="rows-move-untouched"),
        pytest.param({"base": base(6)}, None, id="six-days-old"),
        pytest.param({"base": base(7)}, "7 days old", id="seven-days-old"),
        pytest.param({"base": base(2), "rules": Checkpoints(full_every=2)}, "2 days old", id="every-second-day"),
        pytest.param({"rules": Checkpoints(full_every=1)}, "every day", id="every-day"),
        pytest.param({"increment_bytes": 500}, None, id="at-the-share"),
        pytest.param({"increment_bytes": 501}, "50% of its bytes", id="above-the-share"),
        pytest.param(
            {"increment_bytes": 500, "rules": Checkpoints(increment_max_share=0.4)}, "50% of its", id="smaller-share"
        ),
    ],
)
def test_compaction_rules(case: dict[str, Any], expected: str | None) -> None:
    given = {
        "rules": Checkpoints(),
        "ds": DS,
        "base": base(1),
        "carried": UNCHANGED,
        "unheld": None,
        "increment_bytes": 100,
        "full_bytes": 1000,
    } | case
    found = why_full(given.pop("rules"), **given)
    assert found is None if expected is None else expected in str(found)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        pytest.param({"full_every": 0}, "full_every is 0 days", id="no-days"),
        pytest.param({"increment_max_share": 1.5}, r"in \[0, 1\]", id="more-than-all"),
    ],
)
def test_impossible_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoints(**rules)


@pytest.mark.parametrize(
    ("kernel", "optimizer", "expected"),
    [
        pytest.param("fused", "rowwise_adagrad", None, id="rowwise"),
        pytest.param("fused_uvm_caching", "adagrad", None, id="adagrad"),
        pytest.param("dense", "adagrad", "table user_item is updated as a whole", id="dense-kernel"),
        pytest.param("fused", "adam", "adam may move every row", id="momentum"),
    ],
)
def test_a_table_whose_untouched_rows_may_move_is_written_in_full(
    kernel: str, optimizer: str, expected: str | None
) -> None:
    table = SavedTable(
        path="p",
        name="user_item",
        num_rows=1,
        dim=1,
        sharding_type="table_wise",
        compute_kernel=kernel,
        ranks=(0,),
        shards=(),
    )
    plan = SavedPlan(device="cpu", hosts=1, ranks_per_host=1, tables=(table,))
    found = why_unheld(Optimizer(sparse=optimizer), plan)  # type: ignore[arg-type]
    assert found is None if expected is None else expected in str(found)
