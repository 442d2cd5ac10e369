"""A day of which only some examples are read: as a day that holds nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties
from hypothesis import given, settings
from hypothesis import strategies as st

from features import reader, schema
from features.arrow import examples_schema
from features.batches import Batch, Encoder
from features.id_counts import count_ids
from features.lake import Lake, Partition
from features.packing import pack
from features.reader import DayReader
from features.schema import DenseFeature, Schema, SparseFeature, Table
from features.selection import Selection, check_selections, described
from features.windows import examples_of, selected
from tests.features.test_packing import WIDE

DAY = date(2026, 1, 1)
NUM_ROWS = 700
SCHEMA = Schema(
    tables=(Table(name="ids", num_rows=50), Table(name="kind", num_rows=10)),
    sparse=(
        SparseFeature(name="ids", table="ids"),
        SparseFeature(name="domain", table="kind", side="item"),
        SparseFeature(name="device", table="kind"),
    ),
    dense=(DenseFeature(name="row"),),
    tasks=("click", "buy"),
)
ENCODER = Encoder(SCHEMA, tasks=("click",))
B = (Selection(column="domain", values=(1,)),)
NOBODY = (Selection(column="domain", values=(9,)),)
RULES = {
    "domain": (B, lambda i: i % 2 == 1),
    "several values": ((Selection(column="device", values=(0, 2)),), lambda i: i // 7 % 4 in (0, 2)),
    "a label": ((Selection(column="click", values=(1,)),), lambda i: i % 5 == 0),
    "a label that is not read": ((Selection(column="buy", values=(1,)),), lambda i: i % 11 == 0),
    "several": ((*B, Selection(column="click", values=(0,))), lambda i: i % 2 == 1 and i % 5 > 0),
    "one column twice": ((*B, Selection(column="domain", values=(1, 0))), lambda i: i % 2 == 1),
    "all of them": ((Selection(column="domain", values=(0, 1, 7)),), lambda i: True),
    "a single row": ((Selection(column="domain", values=(7,)),), lambda i: i == 650),
}
"""Selections, and whether they hold for row i."""


def rows_of(num_rows: int = NUM_ROWS) -> pa.Table:
    numbers = np.arange(num_rows)
    columns = {
        "user_id": numbers,
        "event_time": numbers,
        "ids": [[int(i)] * (i % 3) for i in numbers],
        "domain": [[7 if i == 650 else int(i % 2)] for i in numbers],
        "device": [[int(i // 7 % 4)] for i in numbers],
        "row": numbers.astype(np.float32),
        "click": (numbers % 5 == 0).astype(np.int8),
        "buy": (numbers % 11 == 0).astype(np.int8),
    }
    layout = examples_schema(SCHEMA)
    return pa.table([pa.array(columns[field.name], field.type) for field in layout], schema=layout)


def commit(lake: Lake, table: pa.Table, *, rows_per_group: int = 60, name: str = "examples/rows") -> Partition:
    writer = WriterProperties(max_row_group_size=rows_per_group)
    return lake.commit(name, DAY, table, fingerprint=f"{table.num_rows:016x}", writer=writer)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Partition]:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    return lake, commit(lake, rows_of())


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOW_ROWS", 96)


def numbers(batch: Batch) -> list[int]:
    return batch.user_dense[batch.weights > 0, 0].long().tolist()


def expected(rule: str) -> list[int]:
    return [i for i in range(NUM_ROWS) if RULES[rule][1](i)]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_every_selected_example_is_read_once_by_ranks_that_work_equally(
    day: tuple[Lake, Partition], rule: str, world_size: int
) -> None:
    wanted, seen, said, real = expected(rule), list[int](), dict[int, float](), dict[int, int]()
    for rank in range(world_size):
        found = DayReader(*day, ENCODER, batch_size=16, rank=rank, world_size=world_size, where=RULES[rule][0])
        assert found.num_rows == len(wanted)
        batches = list(found)
        assert len(batches) == found.num_batches == -(-len(wanted) // (world_size * 16))
        for step, batch in enumerate(batches):
            real[step] = real.get(step, 0) + int(batch.weights.sum())
            said[step] = batch.num_examples.item() * world_size
            rows = batch.user_dense[batch.weights > 0, 0].long()
            assert torch.equal(batch.user_sparse["ids"].lengths()[batch.weights > 0].long(), rows % 3)
            assert torch.equal(batch.labels[batch.weights > 0, 0].long(), (rows % 5 == 0).long())
            seen += rows.tolist()
    assert sorted(seen) == wanted
    assert said == pytest.approx(real)
    assert seen != wanted or len(wanted) < 20


def test_the_order_follows_from_the_seed(day: tuple[Lake, Partition]) -> None:
    def order(seed: int) -> list[int]:
        return [i for batch in DayReader(*day, ENCODER, batch_size=16, seed=seed, where=B) for i in numbers(batch)]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("rule", ["domain", "several", "a single row"])
def test_a_selected_day_goes_on_from_any_batch(day: tuple[Lake, Partition], rule: str, rank: int) -> None:
    found = DayReader(*day, ENCODER, batch_size=16, rank=rank, world_size=2, where=RULES[rule][0])
    whole = [numbers(batch) for batch in found]
    for position in range(found.num_batches + 1):
        assert [numbers(batch) for batch in found.read_from(position)] == whole[position:]


def test_without_a_selection_nothing_changes(day: tuple[Lake, Partition]) -> None:
    """Checkpoints within a day are of batches in this order."""
    all_of_it = RULES["all of them"][0]
    plain, filtered = (DayReader(*day, ENCODER, batch_size=16, where=where) for where in ((), all_of_it))
    assert [numbers(batch) for batch in plain] == [numbers(batch) for batch in filtered]


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=60),
    wanted=st.sets(st.integers(0, 2), min_size=1),
    group=st.integers(1, 20),
    world_size=st.integers(1, 4),
)
@settings(max_examples=12, deadline=None)
def test_any_selection_of_any_day(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int], wanted: set[int], group: int, world_size: int
) -> None:
    lake, layout = Lake(tmp_path_factory.mktemp("lake")), examples_schema(SCHEMA)
    table = rows_of(len(labels))
    place = layout.get_field_index("device")
    partition = commit(
        lake, table.set_column(place, layout.field(place), pa.array([[i] for i in labels], layout.field(place).type)),
        rows_per_group=group,
    )  # fmt: skip
    where = (Selection(column="device", values=tuple(sorted(wanted))),)
    kept = [i for i, label in enumerate(labels) if label in wanted]
    if not kept:
        with pytest.raises(ValueError, match="no example is left"):
            DayReader(lake, partition, ENCODER, batch_size=4, where=where)
        return
    readers = [
        DayReader(lake, partition, ENCODER, batch_size=4, rank=rank, world_size=world_size, where=where)
        for rank in range(world_size)
    ]
    assert sorted(i for one in readers for batch in one.batches() for i in numbers(batch)) == kept
    counted = count_ids(lake, partition, SCHEMA, where=where)["ids"]
    assert dict(zip(counted.ids.tolist(), counted.counts.tolist(), strict=True)) == {i: i % 3 for i in kept if i % 3}


@pytest.mark.parametrize("lists", [[[0], []], [[0], [0, 1]], [[0], None], [[], [0, 1]]], ids=str)
def test_a_feature_of_no_id_or_of_two_selects_nothing(tmp_path: Path, lists: list[list[int] | None]) -> None:
    lake, table = Lake(tmp_path), rows_of(2)
    place = table.schema.get_field_index("device")
    field = table.schema.field(place)
    partition = commit(lake, table.set_column(place, field, pa.array(lists, field.type)))
    where = (Selection(column="device", values=(0,)),)
    with pytest.raises(ValueError, match=r"examples/rows ds=2026-01-01: column device has rows of no value or of sev"):
        DayReader(lake, partition, ENCODER, batch_size=4, where=where)


def test_a_label_without_a_value_is_no_zero() -> None:
    rows = pa.table({"click": pa.array([0, None, 1], pa.int8())})
    with pytest.raises(ValueError, match=r"column click has rows of no value .*1 nulls of 3 rows"):
        selected(rows, (Selection(column="click", values=(0,)),))


def test_a_day_of_which_nothing_is_selected_is_refused(day: tuple[Lake, Partition]) -> None:
    words = r"examples/rows ds=2026-01-01 has no rows where domain in \[9\] and click in \[1\]; no example is left"
    for read in (
        lambda where: DayReader(*day, ENCODER, batch_size=4, where=where),
        lambda where: count_ids(*day, SCHEMA, where=where),
    ):
        with pytest.raises(ValueError, match=words):
            read((*NOBODY, Selection(column="click", values=(1,))))


def test_a_column_that_the_table_lacks_is_named(day: tuple[Lake, Partition]) -> None:
    with pytest.raises(ValueError, match=r"ds=2026-01-01: examples are selected by \['place'\], columns that"):
        examples_of(*day, (Selection(column="place", values=(0,)),))


def test_an_error_in_what_is_not_selected_does_not_stop_the_day(tmp_path: Path) -> None:
    lake, table = Lake(tmp_path), rows_of(100)
    values = np.arange(100, dtype=np.float32)
    values[51] = np.nan
    partition = commit(lake, table.set_column(table.schema.get_field_index("row"), "row", pa.array(values)))
    for domain, failing in ((0, False), (1, True)):
        found = DayReader(lake, partition, ENCODER, batch_size=8, where=(Selection(column="domain", values=(domain,)),))
        if not failing:
            assert len(list(found)) == 7
            continue
        with pytest.raises(ValueError, match=r"examples/rows ds=2026-01-01 batch \d: column row has the value nan"):
            list(found)


def test_a_row_group_without_a_selected_row_is_read_for_the_selection_alone(day: tuple[Lake, Partition]) -> None:
    (piece,) = examples_of(*day, RULES["a single row"][0])
    assert piece.num_rows == 1
    assert piece.read(["row"])["row"].to_pylist() == [650]


def test_a_packed_source_is_selected_by_what_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "PACKED_FROM", 9)
    lake, num_rows = Lake(tmp_path), 90
    data = {f.name: [[i, i + 1]] * num_rows for i, f in enumerate(WIDE.sparse)} | {
        "i0": [[i % 3] for i in range(num_rows)]
    }
    data |= {f.name: np.arange(num_rows, dtype=np.float32) for f in WIDE.dense}
    data |= {name: np.arange(num_rows) for name in ("user_id", "event_time")} | {"click": [0] * num_rows}
    layout = examples_schema(WIDE)
    table = pa.table([pa.array(data[field.name], field.type) for field in layout], schema=layout)
    stored = pa.Table.from_batches([pack(table, examples_schema(WIDE, stored=True))])
    partition = commit(lake, stored, rows_per_group=20, name="examples/wide")
    where = (Selection(column="i0", values=(1,)),)
    check_selections(where, WIDE, of="recipe wide")
    found = DayReader(lake, partition, Encoder(WIDE, tasks=("click",)), batch_size=8, where=where)
    seen = [int(i) for batch in found for i in batch.user_dense[batch.weights > 0, 0]]
    assert sorted(seen) == list(range(1, num_rows, 3))
    counts = count_ids(lake, partition, WIDE, where=where)
    assert counts["a"].counts.sum() == 3 * 2 * num_rows // 3
    with pytest.raises(ValueError, match=r"recipe wide selects examples by \['u0'\]: no labels and no sparse features"):
        check_selections((Selection(column="u0", values=(1,)),), WIDE, of="recipe wide")


@pytest.mark.parametrize("column", ["row", "user_id", "nothing"])
def test_what_examples_cannot_be_selected_by_is_refused(column: str) -> None:
    with pytest.raises(ValueError, match=rf"model m selects examples by \['{column}'\]"):
        check_selections((Selection(column=column, values=(1,)),), SCHEMA, of="model m")


def test_a_selection_names_a_value() -> None:
    with pytest.raises(ValueError, match="names no value"):
        Selection(column="click", values=())


def test_selections_are_described() -> None:
    found: Sequence[Selection] = RULES["several"][0]
    assert described(found) == "domain in [1] and click in [0]"
    assert described(()) == ""
